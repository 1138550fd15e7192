// The API as `openai` of npm sees it.

import assert from 'node:assert/strict';

import OpenAI from 'openai';
import { zodFunction, zodResponseFormat } from 'openai/helpers/zod';
import { z } from 'zod';

import {
  BASE, BROKEN_MODES, Basket, CALL_MODES, DEADLINE, ERROR_MODES, ORDER, Order, PACED, QUESTION, TEXT_MODES, Tree,
  UPSTREAM_TEXT, idle, test, untilCounted,
} from './cases.js';

const client = new OpenAI({ baseURL: BASE, apiKey: 'none', maxRetries: 0, timeout: DEADLINE });
const asked = (parameters = {}) => ({
  model: 'extract',
  messages: [{ role: 'user', content: parameters.question ?? QUESTION }],
  temperature: 0,
  max_tokens: 300,
  ...Object.fromEntries(Object.entries(parameters).filter(([name]) => name !== 'question')),
});
const CARD = { model: 'support-intent', question: 'my card has not arrived yet' };

test('chat is answered', async () => {
  const answer = await client.chat.completions.create(asked(CARD));
  assert.equal(answer.choices[0].message.content, 'card_arrival');
  assert.equal(answer.choices[0].finish_reason, 'stop');
  assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
});

test('stream adds up to the answer and its usage', async () => {
  const whole = await client.chat.completions.create(asked());
  let text = '';
  let usage;
  const stream = await client.chat.completions.create(asked({ stream: true, stream_options: { include_usage: true } }));
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta.content ?? '';
    usage = chunk.usage ?? usage;
  }
  assert.equal(text, whole.choices[0].message.content);
  assert.equal(usage.total_tokens, whole.usage.total_tokens);
});

test('several choices are generated', async () => {
  const answer = await client.chat.completions.create(asked({ model: 'instant', n: 3, temperature: 1 }));
  assert.deepEqual(answer.choices.map(({ index }) => index).sort(), [0, 1, 2]);
});

test('parsed answer is the order', async () => {
  const answer = await client.chat.completions.parse(asked({ response_format: zodResponseFormat(Order, 'order') }));
  assert.deepEqual(answer.choices[0].message.parsed, ORDER);
});

for (const [name, shape] of Object.entries({ Basket, Tree })) {
  test(`parsed answer has the nested shape ${name}`, async () => {
    const answer = await client.chat.completions.parse(asked({ response_format: zodResponseFormat(shape, 'shape') }));
    shape.parse(answer.choices[0].message.parsed);
  });

  test(`parsed call has the nested shape ${name}`, async () => {
    const tool = zodFunction({ name: 'fill_in', parameters: shape });
    const answer = await client.chat.completions.parse(asked({ tools: [tool], tool_choice: 'required' }));
    const [call] = answer.choices[0].message.tool_calls;
    assert.equal(answer.choices[0].finish_reason, 'tool_calls');
    shape.parse(call.function.parsed_arguments);
  });
}

test('tool of several is called by its name', async () => {
  const tools = [
    zodFunction({ name: 'order', parameters: Order }),
    zodFunction({ name: 'weather', parameters: z.strictObject({ sunny: z.boolean() }) }),
  ];
  const choice = { type: 'function', function: { name: 'weather' } };
  const answer = await client.chat.completions.parse(asked({ tools, tool_choice: choice }));
  const [call] = answer.choices[0].message.tool_calls;
  assert.equal(call.function.name, 'weather');
  assert.equal(typeof call.function.parsed_arguments.sunny, 'boolean');
});

test('stream helper assembles a call', async () => {
  const tool = zodFunction({ name: 'order', parameters: Order });
  const final = await client.chat.completions
    .stream(asked({ tools: [tool], tool_choice: 'required' }))
    .finalChatCompletion();
  const [call] = final.choices[0].message.tool_calls;
  assert.equal(call.function.parsed_arguments.customer, ORDER.customer);
});

test('model that need not call answers with text', async () => {
  const tools = [zodFunction({ name: 'order', parameters: Order })];
  const { message } = (await client.chat.completions.create(asked({ ...CARD, tools }))).choices[0];
  assert.equal(message.content, 'card_arrival');
  assert.equal(message.tool_calls, undefined);
});

for (const mode of CALL_MODES) {
  test(`two calls of an upstream with ${mode} are apart`, async () => {
    const tools = [zodFunction({ name: 'weather', parameters: z.object({ city: z.string() }) })];
    const question = asked({ model: `fake-${mode}`, tools });
    const streamed = await client.chat.completions.stream(question).finalChatCompletion();
    const whole = await client.chat.completions.parse(question);
    for (const { choices } of [streamed, whole]) {
      const cities = choices[0].message.tool_calls.map((call) => call.function.parsed_arguments.city);
      assert.deepEqual(cities, ['Rome', 'Oslo']);
    }
  });
}

for (const mode of TEXT_MODES) {
  test(`upstream with ${mode} is answered as usual`, async () => {
    const question = asked({ model: `fake-${mode}` });
    const whole = await client.chat.completions.create(question);
    const streamed = await client.chat.completions.stream(question).finalChatCompletion();
    for (const { choices } of [whole, streamed]) assert.equal(choices[0].message.content, UPSTREAM_TEXT);
  });
}

test('number of a call of an upstream is no size', async () => {
  const tools = [zodFunction({ name: 'weather', parameters: z.object({ city: z.string() }) })];
  const final = await client.chat.completions
    .stream(asked({ model: 'fake-huge-call-index', tools }))
    .finalChatCompletion();
  assert.equal(final.choices[0].message.tool_calls.length, 1);
});

test('refusal of an upstream is apart from the text', async () => {
  const { message } = (await client.chat.completions.create(asked({ model: 'fake-refusal' }))).choices[0];
  assert.deepEqual([message.content, message.refusal], [null, 'I cannot help with that.']);
});

test('texts are embedded', async () => {
  const answer = await client.embeddings.create({ model: 'tiny-embed', input: ['red lamp', 'desk'] });
  assert.deepEqual(answer.data.map(({ index }) => index), [0, 1]);
  assert.notDeepEqual(answer.data[0].embedding, answer.data[1].embedding);
});

test('tokens are embedded as their text', async () => {
  const settings = { model: 'tiny-embed', encoding_format: 'float' };
  const text = await client.embeddings.create({ ...settings, input: 'desk' });
  const tokens = await client.embeddings.create({ ...settings, input: [[...Buffer.from('desk'), 256]] });
  const distance = Math.hypot(...text.data[0].embedding.map((x, i) => x - tokens.data[0].embedding[i]));
  assert.ok(distance < 1e-4, `${distance}`);
});

test('unknown model is not found', async () => {
  const answer = client.chat.completions.create(asked({ model: 'nowhere' }));
  await assert.rejects(answer, (error) => error instanceof OpenAI.NotFoundError && error.code === 'model_not_found');
});

test('wrong parameter is refused by name', async () => {
  const answer = client.chat.completions.create(asked({ temperature: 9 }));
  await assert.rejects(answer, (error) => error instanceof OpenAI.BadRequestError && error.param === 'temperature');
});

for (const [mode, status] of Object.entries(ERROR_MODES)) {
  test(`error of an upstream with ${mode} has its status`, async () => {
    const answer = client.chat.completions.create(asked({ model: `fake-${mode}` }));
    await assert.rejects(answer, (error) => error.status === status);
  });
}

for (const mode of BROKEN_MODES) {
  test(`answer of an upstream with ${mode} is an error`, async () => {
    const stream = await client.chat.completions.create(asked({ model: `fake-${mode}`, stream: true }));
    let text = '';
    const read = async () => {
      for await (const chunk of stream) text += chunk.choices[0]?.delta.content ?? '';
    };
    await assert.rejects(read(), OpenAI.APIError);
    assert.ok(text && UPSTREAM_TEXT.startsWith(text), text);
    const whole = client.chat.completions.create(asked({ model: `fake-${mode}` }));
    await assert.rejects(whole, (error) => error.status === 502);
  });
}

test('aborted stream stops the model', async () => {
  const { cancelled } = await idle(PACED);
  const stream = await client.chat.completions.create(asked({ model: PACED, stream: true }));
  for await (const _ of stream) break;
  await untilCounted(PACED, (now) => now.cancelled === cancelled + 1);
});
