"""The cheapest way to store vectors that meets a goal: searched on a sample, confirmed on queries kept apart."""

from vaecodec_integrations.plan.goal import Goal
from vaecodec_integrations.plan.planner import Answer, Plan, plan

__all__ = ["Answer", "Goal", "Plan", "plan"]
