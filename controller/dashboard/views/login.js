// The login of a fleet that requires keys.

import { html, useState } from "../html.js";
import { login } from "../identity.js";

export function Login() {
  const [key, setKey] = useState("");
  const [problem, setProblem] = useState(null);
  const [running, setRunning] = useState(false);
  const send = async (event) => {
    event.preventDefault();
    setRunning(true);
    setProblem(await login(key.trim()));
    setRunning(false);
  };
  return html`
    <main id="main" class="login">
      <h1>Flotilla</h1>
      <form class="panel" onSubmit=${send}>
        <label class="field">
          <span>API key</span>
          <input
            name="key"
            type="password"
            autocomplete="current-password"
            required
            placeholder="flt_…"
            value=${key}
            onInput=${(event) => setKey(event.target.value)}
          />
        </label>
        ${problem && html`<p class="problem" role="alert">${problem}</p>`}
        <div class="actions">
          <button type="submit" class="button primary" disabled=${running || key.trim() === ""}>Log in</button>
        </div>
        <p class="muted">This fleet requires a key with the role viewer, operator or admin: <code>flotilla key create NAME --role viewer</code></p>
      </form>
    </main>
  `;
}
