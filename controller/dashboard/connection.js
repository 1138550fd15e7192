// Whether what is shown is what is, and how old it is if not.

import { html } from "./html.js";
import { useNow, useStore } from "./hooks.js";
import { duration, timeOfDay } from "./format.js";
import { Icon } from "./icons.js";

const WORDS = { connecting: "Connecting", live: "Live", lost: "Lost" };

export function ConnectionState() {
  const { phase } = useStore("connection").connection;
  return html`
    <p class=${`connection ${phase}`} role="status" aria-live="polite">
      <span class="pulse" aria-hidden="true"></span>${WORDS[phase]}
    </p>
  `;
}

export function ConnectionBanner({ retry }) {
  const { connection } = useStore("connection");
  return connection.phase === "lost" && html`<${Lost} ...${connection} retry=${retry} />`;
}

function Lost({ heardAt, retryAt, problem, retry }) {
  const now = useNow(500);
  const seconds = retryAt === null ? 0 : Math.ceil((retryAt - now) / 1000);
  return html`
    <section class="banner" aria-label="Connection">
      <${Icon} name="lost" />
      <div>
        <strong>The controller is lost${problem ? `: ${problem}` : ""}.</strong>
        <p>
          ${heardAt
            ? html`What you see is the fleet at ${timeOfDay(heardAt)}, <b class="age">${duration(now - heardAt)} ago</b>.`
            : "It has not been heard of yet."}
          ${" "}${seconds > 0 ? `Trying again in ${seconds} s.` : "Trying again…"}
        </p>
      </div>
      <button type="button" class="button" onClick=${retry} disabled=${retryAt === null}>Try now</button>
    </section>
  `;
}
