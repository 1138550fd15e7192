"""The list of models."""

import time

import openai
import pytest

import fleet
from fleet import QUESTIONS

OTHERS = ["instant", fleet.PACED, fleet.NARROW, "tiny-embed", "absent"]


def test_list_contains_every_model_sorted_by_name(client):
    """A model without a ready replica is listed, too."""
    names = [model.id for model in client.models.list()]
    models = names[: names.index("auto")]
    assert models == sorted(models)
    assert {*QUESTIONS, *OTHERS} <= set(models)


def test_tasks_and_auto_follow_the_models(client):
    """So that a client that lets its user choose a model can offer them."""
    names = [model.id for model in client.models.list()]
    tasks = names[names.index("auto") + 1 :]
    assert tasks == sorted(tasks)
    assert "task:bank-support" in tasks
    assert all(task.startswith("task:") for task in tasks)


@pytest.mark.parametrize("model", ["auto", "task:bank-support"])
def test_listed_task_can_be_used(client, model):
    messages = [{"role": "user", "content": QUESTIONS["support-intent"]}]
    answer = client.chat.completions.create(model=model, messages=messages)
    assert answer.model == "support-intent"


def test_each_model_has_the_fields_of_a_model(client):
    for model in client.models.list():
        assert model.object == "model"
        assert model.owned_by == "flotilla"
        assert 0 < model.created <= time.time()


def test_list_can_be_iterated_by_page(client):
    page = client.models.list()
    assert page.object == "list"
    assert not page.has_next_page()


def test_single_model_equals_its_entry_in_the_list(client):
    for model in client.models.list():
        assert client.models.retrieve(model.id) == model


@pytest.mark.parametrize("name", ["nobody", "SUPPORT-INTENT", "a b", "ü", "Auto"])
def test_model_that_does_not_exist_is_not_found(client, name):
    with pytest.raises(openai.NotFoundError) as missing:
        client.models.retrieve(name)
    assert missing.value.code == "model_not_found"
    assert missing.value.param == "model"
    assert missing.value.type == "invalid_request_error"
    assert name in missing.value.message


def test_task_that_does_not_exist_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as missing:
        client.models.retrieve("task:nothing")
    assert missing.value.code == "task_not_found"
