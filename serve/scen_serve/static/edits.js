// Edits: submitting one and following it until it is served; listing, searching and revoking.

import { call } from "/static/api.js";
import { announce, byId, confirm, count, growing, h, when } from "/static/dom.js";

const MINE = "scen-handed-in"; // the edits that were handed in from this tab
const STEPS = [["queued", "pending"], ["committed", "trained"], ["served", "served"]];
const FINAL = ["served", "rejected", "withdrawn", "revoked"];
const PATIENCE_SECONDS = 20; // before it is said what an edit waits for
const TYPING_MS = 250;

export class Edits {
  #mine = [];
  #timer = null;
  #next = null; // offset of the next page of the list
  #isStale = true;
  #search = 0; // number of the latest search; results of earlier ones are dropped

  constructor(app) {
    this.app = app;
    this.#fits = [...byId("edit-form").querySelectorAll("textarea")].map(growing);
    this.#listen();
  }

  #fits;

  /** A new session. */
  begin() {
    const { streams, default_stream: stream } = this.app.me;
    byId("edit-stream").placeholder = streams && !streams.includes(stream) ? streams[0] : stream;
    this.#mine = JSON.parse(sessionStorage.getItem(MINE) ?? "[]").map((edit) => new SubmittedEdit(this, edit));
    byId("handed-in-list").replaceChildren(...this.#mine.map((one) => one.element));
    byId("handed-in").hidden = !this.#mine.length;
    this.#isStale = true;
    if (this.app.may("edit")) this.#watch();
  }

  show() {
    if (this.#isStale && this.app.may("edit")) this.list();
  }

  /** Called when the store has changed. */
  changed() {
    this.#isStale = true;
    if (!byId("edits").hidden) this.show();
  }

  /** Another key may see other edits. */
  forget() {
    clearTimeout(this.#timer);
    this.#mine = [];
    sessionStorage.removeItem(MINE);
    byId("edit-form").reset();
    byId("edit-list").replaceChildren();
  }

  /** Begin an edit with some fields filled in. */
  draft(fields) {
    this.app.open("edits");
    byId("edit-form").reset();
    for (const [name, value] of Object.entries(fields)) byId(`edit-${name}`).value = value;
    for (const fit of this.#fits) fit();
    byId(fields.target ? "edit-prompt" : "edit-target").focus();
    byId("edit-form").scrollIntoView({ block: "nearest" });
  }

  /** Show a single edit in the list. */
  async open(id) {
    this.app.open("edits");
    byId("edit-query").value = id;
    byId("edit-show").value = "all";
    await this.list();
    const row = byId("edit-list").querySelector(`details[data-id="${CSS.escape(id)}"]`);
    if (!row) return;
    row.open = true;
    row.querySelector("summary").focus();
  }

  /** Read the list again, or its next page. */
  async list({ more = false } = {}) {
    const search = ++this.#search;
    this.#isStale = false;
    const query = new URLSearchParams({
      q: byId("edit-query").value, show: byId("edit-show").value, offset: more ? this.#next : 0,
    });
    try {
      const page = await call("GET", `/v1/edits?${query}`);
      if (search !== this.#search) return;
      const rows = page.data.map((one) => new Row(this, one).element);
      if (more) byId("edit-list").append(...rows);
      else byId("edit-list").replaceChildren(...rows);
      this.#next = page.next;
      byId("edit-more-button").hidden = page.next === null;
      const shown = byId("edit-list").children.length;
      byId("edit-count").textContent = page.total
        ? `${count(page.total, "edit")}${shown < page.total ? `, the newest ${shown} shown` : ""}`
        : "No edits.";
    } catch (error) {
      byId("edit-count").textContent = error.message;
    }
  }

  /** Ask for a reason, then revoke or withdraw an edit. */
  async revoke({ id, stream, status, edit }) {
    const waits = status === "queued" || status === "training";
    const why = h("textarea", { id: "why", name: "why", rows: "2", required: true });
    const done = await confirm({
      title: waits ? `Withdraw ${id}?` : `Revoke ${id}?`,
      body: [
        h("p", {}, edit.prompt, " → ", h("b", {}, edit.target)),
        h("p", { class: "muted" }, waits
          ? "It will not be part of any wave."
          : "It is deactivated in a new version, and the base answers again. A rollback can restore it."),
        ...(waits ? [] : [h("p", { class: "field" }, h("label", { for: "why" }, "Reason, kept in the log"), why)]),
      ],
      action: waits ? "Withdraw" : "Revoke",
      danger: true,
      act: async (values) => {
        if (!waits && !values.why.trim()) throw new Error("Give a reason: readers of the log will need it.");
        const query = new URLSearchParams({ stream, why: (values.why ?? "").trim() });
        return call("DELETE", `/v1/edits/${encodeURIComponent(id)}?${query}`);
      },
    });
    if (!done) return;
    announce(`Edit ${id} is ${done.status}.`);
    this.#mine.find((one) => one.id === id)?.take(done);
    await this.list();
    byId("edit-query").focus(); // the focused button was removed
    this.app.refresh();
  }

  async #handIn() {
    const form = byId("edit-form");
    this.#clearErrors();
    const body = {};
    for (const [name, value] of new FormData(form)) {
      const lines = value.split("\n").filter((line) => line.trim());
      if (name === "rephrases" || name === "near_misses") body[name] = lines;
      else if (value.trim()) body[name] = value.trim();
    }
    body.stream ??= byId("edit-stream").placeholder;
    const button = form.querySelector("button.primary");
    button.disabled = true;
    try {
      const state = await call("POST", "/v1/edits", body);
      const submitted = new SubmittedEdit(this, { id: state.id, stream: state.stream, edit: body });
      submitted.take(state);
      this.#mine = [submitted, ...this.#mine.filter((other) => other.id !== state.id)];
      byId("handed-in-list").replaceChildren(...this.#mine.map((each) => each.element));
      byId("handed-in").hidden = false;
      byId("handed-in").scrollIntoView({ block: "nearest" });
      announce(`Edit ${state.id} is submitted.`);
      this.#keep();
      form.reset();
      byId("edit-prompt").focus();
      this.#watch();
      this.list();
    } catch (error) {
      this.#showError(error);
    }
    button.disabled = false;
  }

  /** Show an error next to its field, or below the form. */
  #showError({ field, message }) {
    const [, name, index] = /^([a-z_]+)(?:\[(\d+)\])?/.exec(field ?? "") ?? [];
    const input = name && byId(`edit-${name}`);
    if (!input) {
      byId("edit-error").textContent = message;
      return;
    }
    const text = message.replace(/^[a-z_]+(\[\d+\])?(\.[a-z]+)?: /, "");
    const where = index === undefined ? "" : `line ${Number(index) + 1}: `;
    const error = h("span", { class: "field-error", id: `${input.id}-error`, role: "alert" }, where, text);
    input.after(error);
    input.setAttribute("aria-invalid", "true");
    input.setAttribute("aria-describedby", error.id);
    if (byId("edit-more").contains(input)) byId("edit-more").open = true;
    input.focus();
  }

  #clearErrors() {
    byId("edit-error").textContent = "";
    for (const input of byId("edit-form").querySelectorAll("[aria-invalid]")) {
      input.removeAttribute("aria-invalid");
      input.removeAttribute("aria-describedby");
    }
    for (const error of byId("edit-form").querySelectorAll("span.field-error")) error.remove();
  }

  #keep() {
    const kept = this.#mine.map(({ id, stream, edit }) => ({ id, stream, edit }));
    sessionStorage.setItem(MINE, JSON.stringify(kept));
  }

  /** Poll the unfinished edits, with increasing pauses while nothing changes. */
  async #watch(seconds = 1) {
    clearTimeout(this.#timer);
    const open = this.#mine.filter((one) => !FINAL.includes(one.status));
    if (!open.length) return;
    let pause = Math.min(5, seconds * 1.3);
    for (const one of document.hidden ? [] : open) {
      const before = one.status;
      try {
        await one.look();
      } catch (error) {
        pause = Math.max(pause, error.retrySeconds);
      }
      if (one.status !== before) {
        pause = 1;
        this.changed();
        this.app.refresh();
      }
    }
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#watch(pause), pause * 1000);
  }

  #listen() {
    byId("edit-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#handIn();
    });
    byId("edit-form").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && event.ctrlKey) byId("edit-form").requestSubmit();
    });
    byId("edit-form").addEventListener("reset", () => this.#clearErrors());
    let typing;
    byId("edit-query").addEventListener("input", () => {
      clearTimeout(typing);
      typing = setTimeout(() => this.list(), TYPING_MS);
    });
    byId("edit-search").addEventListener("submit", (event) => {
      event.preventDefault();
      this.list();
    });
    byId("edit-show").addEventListener("change", () => this.list());
    byId("edit-more-button").addEventListener("click", () => this.list({ more: true }));
  }
}

/** An edit submitted here, and its progress: pending, trained, served. */
class SubmittedEdit {
  status = "queued";
  #since = Date.now();

  constructor(edits, { id, stream, edit }) {
    Object.assign(this, { edits, id, stream, edit });
    this.steps = h("ol", { class: "steps" });
    this.note = h("p", { class: "note", role: "status" });
    this.tools = h("p", { class: "row tools" });
    this.element = h("li", { data: { id } },
      h("p", { class: "edit-line" }, h("code", {}, id), " ", edit.prompt, " → ", h("b", {}, edit.target)),
      this.steps, this.note, this.tools);
    this.take({ status: "queued" });
  }

  async look() {
    try {
      this.take(await call("GET", `/v1/edits/${encodeURIComponent(this.id)}?stream=${encodeURIComponent(this.stream)}`));
    } catch (error) {
      if (error.status !== 404) throw error;
      this.take({ status: "withdrawn", reason: error.message });
    }
  }

  /** Show a state as returned by `GET /v1/edits/ID`. */
  take({ status, field, reason, remarks = [], version }) {
    this.status = status;
    const at = STEPS.findIndex(([name]) => name === status);
    this.steps.replaceChildren(...STEPS.map(([, word], index) => {
      const state = index <= at ? "done" : status === "rejected" && index === 1 ? "failed" : "";
      const current = index === at ? "step" : null;
      return h("li", { class: state, "aria-current": current }, state === "failed" ? "rejected" : word);
    }));
    this.steps.hidden = status === "withdrawn" || status === "revoked";
    const lines = remarks.map((remark) => h("span", {}, remark));
    this.note.className = status === "rejected" ? "note bad" : "note muted";
    if (status === "rejected") lines.unshift(`${field}: ${reason}`);
    else if (status === "queued" && Date.now() - this.#since > PATIENCE_SECONDS * 1000) {
      lines.unshift(`Waiting for a wave of the stream ${this.stream}: is \`scen drain --stream ${this.stream}\` running?`);
    } else if (status === "withdrawn") lines.unshift(reason ?? "withdrawn");
    else if (status === "revoked") lines.unshift(`revoked in version ${version}`);
    else if (status !== "queued") lines.unshift(`version ${version}`);
    this.note.replaceChildren(...lines);
    this.#offer();
  }

  #offer() {
    const { edits, edit, status } = this;
    const button = (text, click) => h("button", { type: "button", class: "quiet small", on: { click } }, text);
    const tools = [];
    if (status === "served" && edits.app.may("read")) tools.push(button("Ask both", () => edits.app.chat.ask(edit.prompt)));
    if (status === "rejected") {
      const lines = (name) => (edit[name] ?? []).join("\n");
      const fields = { ...edit, rephrases: lines("rephrases"), near_misses: lines("near_misses") };
      tools.push(button("Correct it", () => edits.draft(fields)));
    }
    if (status === "queued") tools.push(button("Withdraw ...", () => edits.revoke(this)));
    this.tools.replaceChildren(...tools);
  }
}

/** An edit in the list; expanded, it shows all fields and the history. */
class Row {
  #isLoaded = false;

  constructor(edits, one) {
    Object.assign(this, { edits, one });
    const { id, status, edit, at } = one;
    this.more = h("div", { class: "history" });
    const details = h("details", { data: { id }, on: { toggle: () => this.#toggled() } },
      h("summary", {},
        h("span", { class: `chip ${TONES[status] ?? ""}` }, STATUS[status] ?? status),
        h("span", { class: "edit-line" }, edit.prompt, " → ", h("b", {}, edit.target)),
        h("span", { class: "muted under" }, h("code", {}, id), when(at))),
      this.#fields(), this.more, this.#tools());
    this.details = details;
    this.element = h("li", {}, details);
  }

  #fields() {
    const { stream, version, left, by, edit } = this.one;
    const facts = {
      Subject: edit.subject,
      Rephrases: (edit.rephrases ?? []).map((rephrase) => rephrase.text),
      "Near misses": edit.near_misses,
      Locality: edit.locality_prompts,
      Source: edit.source,
      Author: edit.author,
      "Valid until": edit.valid_until,
      Stream: stream,
      Version: version === null ? null : left === null ? `since ${version}` : `${version} to ${left - 1}`,
      "Replaced by": by,
    };
    const rows = Object.entries(facts).filter(([, value]) => (Array.isArray(value) ? value.length : value));
    return h("dl", {}, ...rows.flatMap(([name, value]) => [
      h("dt", {}, name),
      h("dd", {}, ...(Array.isArray(value) ? value.map((text) => h("div", {}, text)) : [value])),
    ]));
  }

  #tools() {
    const { one, edits } = this;
    const button = (text, kind, click) => h("button", { type: "button", class: `${kind} small`, on: { click } }, text);
    const waits = one.status === "queued" || one.status === "training";
    const isActive = one.status === "served" || one.status === "committed";
    return h("p", { class: "row tools" },
      isActive && edits.app.may("read") ? button("Ask both", "quiet", () => edits.app.chat.ask(one.edit.prompt)) : null,
      isActive || waits ? button(waits ? "Withdraw ..." : "Revoke ...", "quiet danger-text", () => edits.revoke(one)) : null);
  }

  async #toggled() {
    if (!this.details.open || this.#isLoaded || this.one.version === null) return;
    this.#isLoaded = true;
    try {
      const { span, remarks, events } = await call("GET", `/v1/edits/${encodeURIComponent(this.one.id)}/history`);
      this.more.replaceChildren(
        span ? h("p", { class: "muted" }, "Messages are compared with ", h("q", {}, span)) : "",
        ...remarks.map((remark) => h("p", { class: "remark" }, remark)),
        h("ol", { class: "plain" }, ...events.map((event) => h("li", {},
          h("b", {}, event.kind), event.by ? ` by ${event.by}` : "", ` in version ${event.version}, `, when(event.at),
          event.who ? `, ${event.who}` : "", event.why ? h("span", {}, ": ", h("q", {}, event.why)) : ""))));
    } catch (error) {
      this.#isLoaded = false;
      this.more.replaceChildren(h("p", { class: "bad" }, error.message));
    }
  }
}

const STATUS = { queued: "pending", committed: "trained" };
const TONES = { served: "on", committed: "wait", queued: "wait", training: "wait", revoked: "off" };
