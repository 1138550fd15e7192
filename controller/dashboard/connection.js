// Shows whether the data on the page is live, and how old it is when it is not.

import { html } from "./html.js";
import { useNow, useStore } from "./hooks.js";
import { duration, timeOfDay } from "./format.js";
import { Icon } from "./icons.js";

const LABELS = { connecting: "Connecting", live: "Live", lost: "Lost" };

export function ConnectionState() {
  const { phase } = useStore("connection").connection;
  return html`
    <p class=${`connection ${phase}`} role="status" aria-live="polite">
      <span class="pulse" aria-hidden="true"></span>${LABELS[phase]}
    </p>
  `;
}

export function ConnectionBanner({ retry }) {
  const { connection } = useStore("connection");
  return connection.phase === "lost" && html`<${Lost} ...${connection} retry=${retry} />`;
}

function Lost({ receivedAt, retryAt, problem, retry }) {
  const now = useNow(500);
  const seconds = retryAt === null ? 0 : Math.ceil((retryAt - now) / 1000);
  return html`
    <section class="banner" aria-label="Connection">
      <${Icon} name="lost" />
      <div>
        <strong>Connection to the controller lost${problem ? `: ${problem}` : ""}.</strong>
        <p>
          ${receivedAt
            ? html`This page shows the fleet at ${timeOfDay(receivedAt)}, <b class="age">${duration(now - receivedAt)} ago</b>.`
            : "No data has been received yet."}
          ${" "}${seconds > 0 ? `Reconnecting in ${seconds} s.` : "Reconnecting…"}
        </p>
      </div>
      <button type="button" class="button" onClick=${retry} disabled=${retryAt === null}>Reconnect now</button>
    </section>
  `;
}
