// Reports the outcome of each case: to people a line, and to FLOTILLA_CASE_REPORTS a line of JSON.

import { appendFileSync } from 'node:fs';
import { inspect } from 'node:util';

const reports = process.env.FLOTILLA_CASE_REPORTS;
const lists = process.env.FLOTILLA_LIST_CASES === '1';

export default async function* caseReporter(events) {
  for await (const { type, data } of events) {
    if (type === 'test:stderr' || type === 'test:stdout') yield data.message;
    // A file that fails before its cases run is reported as a case of its own.
    if (type !== 'test:pass' && type !== 'test:fail') continue;
    const id = data.name;
    if (lists) {
      yield type === 'test:pass' ? `case ${id}\n` : `${id}: ${inspect(data.details.error)}\n`;
      continue;
    }
    const skipped = data.skip !== undefined && data.skip !== false;
    const outcome = skipped ? 'skipped' : type === 'test:pass' ? 'passed' : 'failed';
    const message = outcome === 'failed' ? inspect(data.details.error, { depth: 6 }) : String(data.skip ?? '');
    yield `${outcome} ${id}\n${outcome === 'failed' ? message + '\n' : ''}`;
    // A case that the filter leaves out is no outcome.
    if (reports && !(skipped && /pattern/.test(message))) {
      appendFileSync(reports, JSON.stringify({ case: id, outcome, message, output: '' }) + '\n');
    }
  }
}
