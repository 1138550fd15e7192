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

/** Returns the counters of a model since it was loaded, summed over all nodes. */
export async function counters(model) {
  const response = await fetch(`${url}/api/v1/nodes`);
  const total = {};
  for (const node of (await response.json()).items) {
    for (const loaded of node.status.models.filter(({ name }) => name === model)) {
      for (const [name, count] of Object.entries(loaded.counters)) total[name] = (total[name] ?? 0) + count;
    }
  }
  return total;
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
