"""What all cases share: the official client, pointed at the fleet under test, and reports of cases."""

import json
import os

import openai
import pytest

import fleet

# The file to which the outcome of each case is appended, for a program that runs pytest.
CASE_REPORTS = os.environ.get("FLOTILLA_CASE_REPORTS")


def pytest_sessionstart(session):
    if not fleet.URL and not session.config.option.collectonly:
        pytest.exit(
            "FLOTILLA_URL is not set: start a fleet with the models that tests/python/README.md lists "
            "and set it to the fleet's address, such as http://127.0.0.1:8080",
            returncode=2,
        )


def pytest_runtest_logreport(report):
    """Appends the outcome of a case as a line of JSON.

    Setup and teardown are reported only when they fail or skip the case. pytest's own XML report is
    not used because it splits the ids of cases.
    """
    if CASE_REPORTS and (report.when == "call" or not report.passed):
        entry = {
            "case": report.nodeid,
            "outcome": report.outcome,
            "message": report.longreprtext,
            "output": report.capstdout + report.capstderr,
        }
        with open(CASE_REPORTS, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


@pytest.fixture(scope="session")
def client():
    """The official client. It does not retry, so that a test sees refusals."""
    with openai.OpenAI(base_url=fleet.BASE, api_key="none", max_retries=0, timeout=fleet.DEADLINE) as client:
        yield client


@pytest.fixture(scope="session")
def ask(client):
    """Asks a model one question: `ask(model, question, **parameters)` returns the completion."""

    def ask(model, question, **parameters):
        messages = [{"role": "user", "content": question}]
        return client.chat.completions.create(model=model, messages=messages, **parameters)

    return ask
