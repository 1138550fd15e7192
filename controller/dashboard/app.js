// The frame of the page: navigation, connection state, and the view of the current route.

import { html, render, useEffect, useLayoutEffect, useRef } from "./html.js";
import { Live } from "./live.js";
import { store } from "./store.js";
import { useNow, useRoute, useStore, useTheme } from "./hooks.js";
import { href, VIEWS } from "./routes.js";
import { ConnectionBanner, ConnectionState } from "./connection.js";
import { hasSession, identify, logout, mayInfer } from "./identity.js";
import { Icon } from "./icons.js";
import { duration } from "./format.js";
import { Fleet } from "./views/fleet.js";
import { NodePage } from "./views/node.js";
import { Models } from "./views/models.js";
import { ModelPage } from "./views/model.js";
import { Tasks } from "./views/tasks.js";
import { Traffic } from "./views/traffic.js";
import { Energy } from "./views/energy.js";
import { Decisions } from "./views/decisions.js";
import { DecisionPage } from "./views/decision.js";
import { Playground } from "./views/playground.js";
import { Login } from "./views/login.js";

const live = new Live(store);

const PAGES = {
  fleet: { title: "Fleet", list: Fleet, detail: NodePage },
  models: { title: "Models", list: Models, detail: ModelPage },
  tasks: { title: "Tasks", list: Tasks },
  traffic: { title: "Traffic", list: Traffic },
  energy: { title: "Energy", list: Energy },
  decisions: { title: "Decisions", list: Decisions, detail: DecisionPage },
  playground: { title: "Playground", list: Playground },
};

function Nav({ view }) {
  const { identity } = useStore("identity");
  const views = VIEWS.filter((name) => name !== "playground" || mayInfer(identity));
  return html`
    <nav class="nav" aria-label="Views">
      <ul>
        ${views.map(
          (name) => html`
            <li key=${name}>
              <a href=${href(name)} aria-current=${name === view ? "page" : null}>
                <${Icon} name=${name} /><span>${PAGES[name].title}</span>
              </a>
            </li>
          `,
        )}
      </ul>
    </nav>
  `;
}

/** Who has logged in, and the way out. */
function Account() {
  const { identity } = useStore("identity");
  if (!hasSession(identity)) return null;
  return html`
    <div class="account">
      <p class="muted">${identity.name}, ${identity.role}</p>
      <button type="button" class="button" onClick=${logout}>Log out</button>
    </div>
  `;
}

function ThemeSwitch() {
  const dark = useTheme() === "dark";
  const label = dark ? "Light colours" : "Dark colours";
  return html`
    <button type="button" class="icon-button" onClick=${() => window.flotillaTheme.toggle()} aria-label=${label} title=${label}>
      <${Icon} name=${dark ? "sun" : "moon"} />
    </button>
  `;
}

function Controllers() {
  const { controller, controllers } = useStore("controller", "controllers");
  const now = useNow(30_000);
  if (!controller) return null;
  return html`
    <dl class="about">
      <dt>Controller</dt>
      <dd class="mono">${controller.id}</dd>
      <dt>Version</dt>
      <dd>${controller.version}</dd>
      <dt>Uptime</dt>
      <dd>${duration(now - controller.startedAt)}</dd>
      ${controllers.map(
        ({ id, http, leader, local }) => html`
          <dt>${leader ? "Leader" : "Follower"}</dt>
          <dd title=${local ? `${id}, the controller that serves this page` : id}>${http}</dd>
        `,
      )}
    </dl>
  `;
}

function Notes() {
  const { notes, refusals } = useStore("notes", "refusals");
  const all = [...notes, ...refusals];
  if (all.length === 0) return null;
  return html`
    <ul class="notes" aria-label="Notes of the controller">
      ${all.map((note) => html`<li><${Icon} name="warning" /><span>${note}</span></li>`)}
    </ul>
  `;
}

const scrollPositions = new Map();

/** Scrolls to the top of a new view, and to the previous position in a view that was open before. */
function useViewChange(key, title) {
  const main = useRef(null);
  const shownKey = useRef(key);
  useEffect(() => {
    const savePosition = () => scrollPositions.set(shownKey.current, scrollY);
    addEventListener("scroll", savePosition, { passive: true });
    return () => removeEventListener("scroll", savePosition);
  }, []);
  useLayoutEffect(() => {
    document.title = `${title} · Flotilla`;
    if (shownKey.current === key) return;
    shownKey.current = key;
    scrollTo(0, scrollPositions.get(key) ?? 0);
    main.current?.focus({ preventScroll: true });
  }, [key]);
  return main;
}

function App() {
  const { view, id } = useRoute();
  const { connection, loaded, identity } = useStore("connection", "loaded", "identity");
  const page = PAGES[view];
  const isDetail = page.detail && id !== null;
  const main = useViewChange(`${view}/${id ?? ""}`, isDetail ? id : page.title);
  const View = isDetail ? page.detail : page.list;
  if (identity === null) return html`<${Login} />`;
  return html`
    <a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); main.current.focus(); }}>Skip to the view</a>
    <header class="side">
      <div class="side-top">
        <a class="brand" href=${href("fleet")}><${Icon} name="flotilla" />Flotilla</a>
        <${ConnectionState} />
        <${ThemeSwitch} />
      </div>
      <${Nav} view=${view} />
      <${Account} />
      <${Controllers} />
    </header>
    <div class="page">
      <${ConnectionBanner} retry=${() => live.retry()} />
      <${Notes} />
      <main id="main" tabindex="-1" ref=${main} class=${connection.phase === "lost" ? "stale" : ""}>
        ${loaded || view === "playground"
          ? html`<${View} key=${`${view}/${id ?? ""}`} id=${id} />`
          : html`<h1>${page.title}</h1><p class="muted">${connection.phase === "lost" ? "No data about the fleet yet." : "Loading from the controller…"}</p>`}
      </main>
    </div>
  `;
}

render(html`<${App} />`, document.getElementById("app"));
identify().then(() => live.run());
