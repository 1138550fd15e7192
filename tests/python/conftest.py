"""What all tests share: the official clients, pointed at the fleet under test."""

import openai
import pytest

import fleet


def pytest_sessionstart(session):
    if not fleet.URL and not session.config.option.collectonly:
        pytest.exit(
            "FLOTILLA_URL is not set: start a fleet with the models that tests/python/README.md lists "
            "and set it to the fleet's address, such as http://127.0.0.1:8080",
            returncode=2,
        )


@pytest.fixture(scope="session")
def client():
    """The official client. It does not retry: what is refused is to be seen."""
    with openai.OpenAI(base_url=fleet.BASE, api_key="none", max_retries=0, timeout=fleet.DEADLINE) as client:
        yield client


@pytest.fixture(scope="session")
def ask(client):
    """Asks a model one question: `ask(model, question, **parameters)` gives the completion."""

    def ask(model, question, **parameters):
        messages = [{"role": "user", "content": question}]
        return client.chat.completions.create(model=model, messages=messages, **parameters)

    return ask
