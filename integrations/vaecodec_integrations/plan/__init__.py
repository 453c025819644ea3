"""Find the cheapest way to store vectors that meets a goal: search on a sample, confirm on separate queries."""

from vaecodec_integrations.plan.from_files import plan_files
from vaecodec_integrations.plan.goal import Goal, GoalRequest
from vaecodec_integrations.plan.planner import Answer, Plan, plan

__all__ = ["Answer", "Goal", "GoalRequest", "Plan", "plan", "plan_files"]
