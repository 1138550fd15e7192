// What all cases share: their registration, the fleet under test, and shapes with the answers of `extract`.

import { basename } from 'node:path';
import nodeTest from 'node:test';
import { z } from 'zod';

// Set to list the cases instead of running them.
const lists = process.env.FLOTILLA_LIST_CASES === '1';
const url = process.env.FLOTILLA_URL ?? '';
if (!url && !lists) {
  throw new Error('FLOTILLA_URL is not set: see tests/python/README.md for the fleet that the cases need');
}

// Models that no other program calls at the same time, so that a case knows whose requests they count.
export const PACED = `paced${process.env.FLOTILLA_MODEL_SUFFIX ?? ''}`;
export const NARROW = `narrow${process.env.FLOTILLA_MODEL_SUFFIX ?? ''}`;
export const BASE = `${url.replace(/\/$/, '')}/v1`;
// The longest time that a case may take, in milliseconds.
export const DEADLINE = 60_000;

/** Registers a case. Its id is the name of the running file and its own, which is unique there. */
export function test(name, run) {
  nodeTest(`${basename(process.argv[1])}::${name}`, { skip: lists, timeout: DEADLINE }, run);
}

export const QUESTION = 'maria smith ordered 3 red lamps';
export const ORDER = { type: 'order', item: 'red lamps', quantity: 3, customer: 'maria smith' };

// Objects are closed and texts bounded, so that a model that was never trained on a shape still ends it.
export const Order = z.strictObject({
  type: z.literal('order'),
  item: z.string().max(20),
  quantity: z.int().min(1).max(999),
  customer: z.string().max(20),
});
export const Colour = z.enum(['red', 'green']);
export const Basket = z.strictObject({
  orders: z.array(Order).min(1).max(2),
  lines: z.array(z.strictObject({ colour: Colour, note: z.string().max(8).nullable() })).min(1).max(2),
  paid: z.boolean(),
});
/** An object that contains itself. */
export const Tree = z.strictObject({
  colour: Colour,
  get parts() {
    return z.array(Tree).max(2);
  },
});

// Modes of the fake upstream server, by what a client gets through the fleet; tests/python/clients/upstreams.py
// says more.
export const UPSTREAM_TEXT = 'Hello from upstream.';
export const TEXT_MODES = [
  'ok', 'nulls', 'content-parts', 'ignores-stream', 'no-finish', 'no-done', 'drop-after-finish', 'unknown-finish',
  'pause-300',
];
export const CALL_MODES = ['no-call-index', 'calls-from-one', 'no-call-id', 'ignores-stream-calls'];
export const ERROR_MODES = {
  'bad-json': 502, 'html-error': 502, 'status-503': 503, 'retry-seconds-429': 429,
  'context-length': 400,
};
export const BROKEN_MODES = ['drop-in-answer', 'error-in-answer'];

/** Returns the counters of a model since it was loaded, summed over all nodes. */
async function counters(model) {
  const response = await fetch(`${url}/api/v1/nodes`);
  const total = {};
  for (const node of (await response.json()).items) {
    for (const loaded of node.status.models.filter(({ name }) => name === model)) {
      for (const [name, count] of Object.entries(loaded.counters)) total[name] = (total[name] ?? 0) + count;
    }
  }
  return total;
}

/** Waits until a model computes nothing and nothing is queued, and returns its counters. */
export function idle(model) {
  return untilCounted(model, (now) => now.active === 0 && now.queued === 0);
}

/** Waits until the counters of a model meet a condition. */
export async function untilCounted(model, condition) {
  const end = Date.now() + DEADLINE;
  while (Date.now() < end) {
    const now = await counters(model);
    if (condition(now)) return now;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`${model} has not counted it: ${condition}`);
}
