// The app: the caller's key, which parts are shown, and what connects them.

import { ApiError, apiKey, call } from "/static/api.js";
import { byId, count } from "/static/dom.js";
import { Chat } from "/static/chat.js";
import { Edits } from "/static/edits.js";
import { Versions } from "/static/versions.js";

const LOOK_SECONDS = 15; // polling interval for the served version

const PARTS = {
  conversation: { scope: "read", does: "ask the models" },
  edits: { scope: "edit", does: "submit, see and revoke edits" },
  versions: { scope: "read", does: "see versions" },
};

/** Shared by the parts: the caller's key and the server's settings (`me`), and the other parts. */
class Workbench {
  me = null;
  #served = null;

  constructor() {
    this.chat = new Chat(this);
    this.edits = new Edits(this);
    this.versions = new Versions(this);
    this.#listen();
  }

  may(scope) {
    return this.me !== null && this.me.scopes.includes(scope);
  }

  /** Restart with the stored key, and show what it is allowed to do. */
  async start() {
    byId("failure").hidden = true;
    try {
      this.me = await call("GET", "/v1/whoami");
    } catch (error) {
      this.me = null;
      this.#lock(error);
      return;
    }
    this.#served = null;
    byId("locked").hidden = true;
    byId("tabs").hidden = false;
    byId("who").hidden = !this.me.needs_key;
    byId("who-name").textContent = `${this.me.name}: ${this.me.scopes.join(", ")}`;
    for (const [name, part] of Object.entries(PARTS)) this.#guard(name, part);
    for (const part of [this.chat, this.edits, this.versions]) part.begin();
    this.open(location.hash.slice(1) in PARTS ? location.hash.slice(1) : this.#first());
    await this.look();
  }

  /** Show one part. */
  open(name, { focus = false } = {}) {
    for (const other of Object.keys(PARTS)) {
      const tab = byId(`tab-${other}`);
      tab.setAttribute("aria-selected", String(other === name));
      tab.tabIndex = other === name ? 0 : -1;
      byId(other).hidden = other !== name;
    }
    if (focus) byId(`tab-${name}`).focus();
    if (location.hash !== `#${name}`) history.replaceState(null, "", `#${name}`);
    this[name === "conversation" ? "chat" : name].show();
  }

  /** Check which version is served, and notify the parts if it changed. */
  async look() {
    if (!this.may("read") || document.hidden) return;
    try {
      const models = await call("GET", "/v1/models");
      await this.#serves(models.data[0].scen.version);
      this.#say(null);
    } catch (error) {
      if (error.status !== 429) this.#say(error);
    }
  }

  /** Called with the version of an answer; checks again if it is a new one. */
  answered(version) {
    if (version !== this.#served) this.look();
  }

  /** Read the served version again, such as after it was changed here. */
  async refresh() {
    this.#served = null;
    await this.look();
  }

  async #serves(version) {
    if (version === this.#served) return;
    this.#served = version;
    const state = await call("GET", "/v1/snapshots");
    const edits = state.edits === null ? "no version" : count(state.edits, "edit");
    byId("served").replaceChildren(this.me.model, ` · version ${state.served} · ${edits}`);
    this.versions.serves(state);
    this.edits.changed();
  }

  #guard(name, { scope, does }) {
    const notice = byId(name).querySelector(".scope-notice");
    const allowed = this.may(scope);
    byId(name).querySelector(".allowed").hidden = !allowed;
    notice.hidden = allowed;
    notice.textContent =
      `The key ${this.me.name} may not ${does}: that needs the scope ${scope}, and it has ` +
      `${this.me.scopes.join(", ")}.`;
  }

  #first() {
    return Object.keys(PARTS).find((name) => this.may(PARTS[name].scope)) ?? "conversation";
  }

  #lock(error) {
    const needsKey = error instanceof ApiError && error.status === 401;
    byId("tabs").hidden = true;
    byId("who").hidden = true;
    byId("served").textContent = "";
    for (const name of Object.keys(PARTS)) byId(name).hidden = true;
    byId("locked").hidden = !needsKey;
    byId("key-error").textContent = needsKey && apiKey.get() ? "The server does not know this key." : "";
    this.#say(needsKey ? null : error);
    if (needsKey) byId("key").focus();
  }

  #say(error) {
    byId("failure").hidden = error === null;
    byId("failure").textContent = error === null ? "" : error.message;
  }

  #listen() {
    byId("key-form").addEventListener("submit", (event) => {
      event.preventDefault();
      apiKey.set(byId("key").value.trim());
      byId("key").value = "";
      this.start();
    });
    byId("forget").addEventListener("click", () => {
      apiKey.forget();
      this.chat.restart();
      this.edits.forget();
      this.start();
    });
    const tabs = [...document.querySelectorAll("[role=tab]")];
    byId("tabs").addEventListener("click", (event) => {
      const name = event.target.getAttribute("aria-controls");
      if (name) this.open(name);
    });
    byId("tabs").addEventListener("keydown", (event) => {
      const here = tabs.indexOf(event.target);
      const to = { ArrowRight: here + 1, ArrowLeft: here - 1, Home: 0, End: tabs.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      const tab = tabs[(to + tabs.length) % tabs.length];
      this.open(tab.getAttribute("aria-controls"), { focus: true });
    });
    window.addEventListener("hashchange", () => {
      if (location.hash.slice(1) in PARTS && this.me) this.open(location.hash.slice(1));
    });
    document.addEventListener("visibilitychange", () => this.look());
    setInterval(() => this.look(), LOOK_SECONDS * 1000);
  }
}

new Workbench().start();
