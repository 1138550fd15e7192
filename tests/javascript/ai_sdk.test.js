// The API as the AI SDK sees it, through `@ai-sdk/openai-compatible`.

import assert from 'node:assert/strict';

import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import {
  APICallError,
  NoObjectGeneratedError,
  embedMany,
  generateObject,
  generateText,
  isStepCount,
  streamObject,
  streamText,
  tool,
} from 'ai';
import { z } from 'zod';

import {
  BASE, BROKEN_MODES, Basket, CALL_MODES, ERROR_MODES, NARROW, ORDER, Order, PACED, QUESTION, TEXT_MODES, Tree,
  UPSTREAM_TEXT, idle, test, untilCounted,
} from './cases.js';

globalThis.AI_SDK_LOG_WARNINGS = false;

const settings = { name: 'flotilla', baseURL: BASE, apiKey: 'none', includeUsage: true };
const strict = createOpenAICompatible({ ...settings, supportsStructuredOutputs: true });
const usual = createOpenAICompatible(settings);

const asked = (model = 'extract', prompt = QUESTION, provider = strict) => ({
  model: provider(model),
  prompt,
  temperature: 0,
  maxOutputTokens: 300,
  maxRetries: 0,
});
const CARD = ['support-intent', 'my card has not arrived yet'];
const order = tool({ description: 'Places an order.', inputSchema: Order });
const weather = tool({ description: 'Tells the weather.', inputSchema: z.object({ city: z.string() }) });

test('text is generated', async () => {
  const answer = await generateText(asked(...CARD));
  assert.equal(answer.text, 'card_arrival');
  assert.equal(answer.finishReason, 'stop');
  assert.equal(answer.usage.totalTokens, answer.usage.inputTokens + answer.usage.outputTokens);
});

test('stream adds up to the text and its usage', async () => {
  const whole = await generateText(asked());
  const stream = streamText(asked());
  let text = '';
  for await (const piece of stream.textStream) text += piece;
  assert.equal(text, whole.text);
  assert.equal((await stream.usage).totalTokens, whole.usage.totalTokens);
  assert.equal(await stream.finishReason, 'stop');
});

for (const [name, provider] of Object.entries({ 'a schema': strict, 'JSON mode': usual })) {
  test(`object of ${name} is the order`, async () => {
    const answer = await generateObject({ ...asked('extract', QUESTION, provider), schema: Order });
    assert.deepEqual(answer.object, ORDER);
  });
}

for (const [name, shape] of Object.entries({ Basket, Tree })) {
  test(`object has the nested shape ${name}`, async () => {
    const answer = await generateObject({ ...asked(), schema: shape });
    shape.parse(answer.object);
  });

  test(`streamed object has the nested shape ${name}`, async () => {
    const stream = streamObject({ ...asked(), schema: shape });
    for await (const _ of stream.partialObjectStream);
    shape.parse(await stream.object);
  });

  test(`call has the nested shape ${name}`, async () => {
    const tools = { fill_in: tool({ description: 'Fills in.', inputSchema: shape }) };
    const answer = await generateText({ ...asked(), tools, toolChoice: 'required' });
    assert.equal(answer.toolCalls.length, 1);
    assert.equal(answer.finishReason, 'tool-calls');
    shape.parse(answer.toolCalls[0].input);
  });
}

test('one of several words is chosen', async () => {
  const answer = await generateObject({ ...asked('support-intent'), output: 'enum', enum: ['red', 'green'] });
  assert.ok(['red', 'green'].includes(answer.object), answer.object);
});

test('tool of several is called by its name', async () => {
  const toolChoice = { type: 'tool', toolName: 'order' };
  const answer = await generateText({ ...asked(), tools: { weather, order }, toolChoice });
  const [call] = answer.toolCalls;
  assert.equal(call.toolName, 'order');
  assert.equal(call.input.customer, ORDER.customer);
});

test('call is streamed', async () => {
  const stream = streamText({ ...asked(), tools: { order }, toolChoice: 'required' });
  const [call] = await stream.toolCalls;
  assert.equal(call.input.customer, ORDER.customer);
  assert.equal(await stream.finishReason, 'tool-calls');
});

test('tool runs and its result is sent back', async () => {
  const cities = [];
  const execute = async ({ city }) => {
    cities.push(city);
    return `It rains in ${city}.`;
  };
  const answer = await generateText({
    ...asked('fake-tools', 'hello'),
    tools: { weather: { ...weather, execute } },
    stopWhen: isStepCount(2),
  });
  assert.deepEqual(cities, ['Rome', 'Rome']);
  assert.equal(answer.steps.length, 2);
});

test('model that need not call answers with text', async () => {
  const answer = await generateText({ ...asked(...CARD), tools: { weather } });
  assert.equal(answer.text, 'card_arrival');
  assert.deepEqual(answer.toolCalls, []);
});

for (const mode of CALL_MODES) {
  test(`two calls of an upstream with ${mode} are apart`, async () => {
    const question = { ...asked(`fake-${mode}`, 'hello'), tools: { weather } };
    const streamed = await streamText(question).toolCalls;
    const whole = (await generateText(question)).toolCalls;
    for (const calls of [streamed, whole]) {
      assert.deepEqual(calls.map(({ input }) => input.city), ['Rome', 'Oslo']);
    }
  });
}

for (const mode of TEXT_MODES) {
  test(`upstream with ${mode} is answered as usual`, async () => {
    const question = asked(`fake-${mode}`, 'hello');
    assert.equal((await generateText(question)).text, UPSTREAM_TEXT);
    assert.equal(await streamText(question).text, UPSTREAM_TEXT);
  });
}

for (const mode of BROKEN_MODES) {
  test(`answer of an upstream with ${mode} is an error`, async () => {
    const errors = [];
    const stream = streamText({ ...asked(`fake-${mode}`, 'hello'), onError: ({ error }) => errors.push(error) });
    let text = '';
    for await (const piece of stream.textStream) text += piece;
    assert.ok(text && UPSTREAM_TEXT.startsWith(text), text);
    assert.equal(errors.length, 1);
    const whole = generateText(asked(`fake-${mode}`, 'hello'));
    await assert.rejects(whole, (error) => APICallError.isInstance(error) && error.statusCode === 502);
  });
}

test('filter of an upstream is the finish reason', async () => {
  assert.equal((await generateText(asked('fake-content-filter', 'hello'))).finishReason, 'content-filter');
});

test('thoughts are apart from the text', async () => {
  const answer = await generateText(asked('fake-reasoning-content', 'hello'));
  assert.equal(answer.reasoningText, 'Hm.');
  assert.equal(answer.text, 'Hello from upstream.');
});

test('texts are embedded', async () => {
  const model = strict.embeddingModel('tiny-embed');
  const answer = await embedMany({ model, values: ['red lamp', 'desk'], maxRetries: 0 });
  assert.equal(answer.embeddings.length, 2);
  assert.notDeepEqual(answer.embeddings[0], answer.embeddings[1]);
});

test('object that is cut is no object', async () => {
  const answer = generateObject({ ...asked(), schema: Order, maxOutputTokens: 6 });
  await assert.rejects(answer, (error) => NoObjectGeneratedError.isInstance(error) && error.finishReason === 'length');
});

const refused = Object.entries(ERROR_MODES).map(([mode, status]) => [`fake-${mode}`, status]);
for (const [model, status] of [['nowhere', 404], ...refused]) {
  test(`error of ${model} has its status`, async () => {
    const answer = generateText(asked(model, 'hello'));
    await assert.rejects(answer, (error) => APICallError.isInstance(error) && error.statusCode === status);
  });
}

test('overloaded model is retried until it answers', async () => {
  const one = () => generateText({ ...asked(NARROW, 'hello'), maxOutputTokens: 2, maxRetries: 8 });
  const answers = await Promise.all(Array.from({ length: 4 }, one));
  assert.deepEqual(answers.map(({ usage }) => usage.outputTokens), [2, 2, 2, 2]);
});

test('aborted stream stops the model', async () => {
  const { cancelled } = await idle(PACED);
  const abort = new AbortController();
  const stream = streamText({ ...asked(PACED, 'hello'), abortSignal: abort.signal, onError() {} });
  for await (const _ of stream.textStream) {
    abort.abort();
    break;
  }
  await untilCounted(PACED, (now) => now.cancelled === cancelled + 1);
});
