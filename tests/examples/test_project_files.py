"""Test that the files which GitHub and other tools read are what these expect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[2]
GITHUB = ROOT / ".github"


def parsed(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def test_the_workflows_test_each_python_with_a_qdrant_server_and_other_systems() -> None:
    jobs = parsed(GITHUB / "workflows" / "check.yml")["jobs"]
    assert jobs["tests"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    assert "qdrant" in jobs["tests"]["services"]
    assert jobs["other-systems"]["strategy"]["matrix"]["os"] == ["macos-latest", "windows-latest"]
    assert any("COVERAGE=1" in step.get("run", "") for step in jobs["tests"]["steps"])


def test_a_release_is_published_by_the_identity_of_its_workflow() -> None:
    jobs = parsed(GITHUB / "workflows" / "release.yml")["jobs"]
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert jobs["publish"]["needs"] == "build"


@pytest.mark.parametrize("name", ["bug", "feature", "quality"])
def test_issue_forms_ask_questions_with_labels(name: str) -> None:
    form = parsed(GITHUB / "ISSUE_TEMPLATE" / f"{name}.yml")
    assert {"name", "description", "body"} <= form.keys()
    questions = [part for part in form["body"] if part["type"] != "markdown"]
    assert questions
    assert all(isinstance(part["attributes"]["label"], str) for part in questions)
    assert len({part["id"] for part in questions}) == len(questions)


def test_vulnerabilities_go_to_a_private_form_and_commits_are_checked() -> None:
    assert "security" in parsed(GITHUB / "ISSUE_TEMPLATE" / "config.yml")["contact_links"][0]["url"]
    hooks = parsed(ROOT / ".pre-commit-config.yaml")["repos"][0]["hooks"]
    assert {"ruff", "format", "types"} == {hook["id"] for hook in hooks}
