// Who uses the page: anybody where the fleet requires no keys, else the holder of a session. The session is a cookie
// that scripts cannot read.

import { store } from "./store.js";

/** Reads who uses the page into the store: `null` if nobody has logged in. */
export async function identify() {
  try {
    const response = await fetch("../api/v1/whoami", { cache: "no-store" });
    if (response.status === 401) store.set({ identity: null });
    if (response.ok) store.set({ identity: await response.json() });
  } catch {
    // The live feed shows that the controller cannot be reached, and reconnects.
  }
}

/** Exchanges a key for a session. Returns why that failed, or `null`. */
export async function login(key) {
  try {
    const response = await fetch("../login", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ key }),
    });
    if (!response.ok) {
      const body = await response.json().catch(() => null);
      return body?.error?.message ?? `the controller replied with HTTP ${response.status}`;
    }
  } catch (error) {
    return `the controller cannot be reached (${error.message})`;
  }
  await identify();
  return null;
}

export async function logout() {
  await fetch("../logout", { method: "POST" }).catch(() => null);
  // Nothing that was shown stays in memory.
  location.reload();
}

/** Whether the page can send requests to models. */
export const mayInfer = (identity) => identity?.role !== "viewer";

/** Whether somebody has logged in with a key. */
export const hasSession = (identity) => identity?.name?.startsWith("key ") ?? false;
