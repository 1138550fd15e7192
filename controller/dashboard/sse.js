// Server-Sent Events from a fetched body. EventSource is not used: it cannot POST, hides comments
// (which keep a quiet stream alive) and gives no details of HTTP errors.

const BLANK_LINE = /\r?\n\r?\n/;

/** Yields `{ event, data }` for each event and `{ comment }` for each comment of a response body. */
export async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let pieces = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      pieces.push(value);
      // A long event arrives in many pieces, which are joined once, at its end.
      if (!value.includes("\n")) continue;
      const frames = pieces.join("").split(BLANK_LINE);
      pieces = [frames.pop()];
      for (const frame of frames) {
        const event = parse(frame);
        if (event) yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parse(frame) {
  let event = "message";
  const data = [];
  let comment = null;
  for (const line of frame.split(/\r?\n/)) {
    if (line.startsWith(":")) comment = line.slice(1).trim();
    else if (line.startsWith("event:")) event = line.slice(6).trim();
    else if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
  }
  if (data.length > 0) return { event, data: data.join("\n") };
  return comment === null ? null : { comment };
}
