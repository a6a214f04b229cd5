// The conversation: each turn goes to the edited model and to the base, and each has its own history.

import { stream } from "/static/api.js";
import { announce, byId, count, growing, h } from "/static/dom.js";
import { Why } from "/static/why.js";

const COLUMNS = [
  { name: "edited", title: "Edited model", route: "auto" },
  { name: "base", title: "Base", route: "off" },
];

export class Chat {
  #histories = { edited: [], base: [] };
  #stopping = null; // AbortController of the turn that is being answered

  constructor(app) {
    this.app = app;
    this.fit = growing(byId("prompt"));
    growing(byId("system"));
    this.#listen();
  }

  /** A new session: other scopes, perhaps another server. */
  begin() {
    byId("max-tokens").placeholder = String(this.app.me.default_tokens);
    byId("max-tokens").max = this.app.me.max_context;
    byId("system-field").hidden = !this.app.me.has_roles;
  }

  show() {
    if (matchMedia("(hover: hover)").matches) byId("prompt").focus();
  }

  /** Send a prompt from another part of the page. */
  ask(text) {
    this.app.open("conversation");
    byId("prompt").value = text;
    this.#send();
  }

  /** Forget the conversation. */
  restart() {
    this.#stopping?.abort();
    this.#histories = { edited: [], base: [] };
    byId("turns").replaceChildren();
    byId("no-turns").hidden = false;
    byId("restart").hidden = true;
  }

  async #send() {
    const text = byId("prompt").value.trim();
    if (!text || this.#stopping || !byId("parameters").reportValidity()) return;
    byId("prompt").value = "";
    this.fit();
    this.#answering(new AbortController());
    const turn = new Turn(this.app, text);
    byId("no-turns").hidden = true;
    byId("turns").append(turn.element);
    turn.element.scrollIntoView({ block: "start" });
    announce("Both models are answering.");
    await Promise.all(COLUMNS.map((column) => this.#answer(turn, column, text)));
    turn.compare();
    announce(COLUMNS.map(({ name, title }) => `${title}: ${turn.answers[name].spoken}`).join("\n"));
    this.#answering(null);
  }

  async #answer(turn, { name, route }, text) {
    const history = this.#histories[name];
    const messages = this.#messages(history, text);
    const answer = turn.answers[name];
    const signal = this.#stopping.signal;
    try {
      const body = this.#body(messages, route);
      for await (const chunk of stream("/v1/chat/completions", body, signal)) answer.add(chunk);
      answer.end();
    } catch (error) {
      answer.end(error);
    }
    if (answer.text) { // chat templates require an answer in each turn
      history.push({ role: "user", content: text }, { role: "assistant", content: answer.text });
    }
    if (name === "edited" && answer.routed) {
      turn.explain(messages, answer.routed);
      if (!byId("version").value) this.app.answered(answer.routed.version);
    }
  }

  #messages(history, text) {
    const last = { role: "user", content: text };
    if (!this.app.me.has_roles) return [last];
    const system = byId("system").value.trim();
    return [...(system ? [{ role: "system", content: system }] : []), ...history, last];
  }

  #body(messages, route) {
    const number = (id) => (byId(id).value === "" ? undefined : Number(byId(id).value));
    const stops = byId("stop-texts").value.split("\n").filter((line) => line);
    return {
      model: this.app.me.model,
      messages,
      stream: true,
      stream_options: { include_usage: true },
      max_tokens: number("max-tokens"),
      temperature: number("temperature"),
      top_p: number("top-p"),
      seed: number("seed"),
      stop: stops.length ? stops : undefined,
      scen: { route, version: number("version") },
    };
  }

  #answering(controller) {
    this.#stopping = controller;
    byId("send").hidden = controller !== null;
    byId("stop").hidden = controller === null;
    byId("restart").hidden = controller !== null || !byId("turns").children.length;
  }

  #listen() {
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    byId("prompt").addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#send();
    });
    byId("stop").addEventListener("click", () => this.#stop());
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !document.querySelector("dialog[open]")) this.#stop();
    });
    byId("restart").addEventListener("click", () => {
      this.restart();
      byId("prompt").focus();
    });
    byId("parameters").addEventListener("submit", (event) => event.preventDefault());
    byId("parameters").addEventListener("input", () => this.#summarise());
  }

  #stop() {
    if (!this.#stopping) return;
    this.#stopping.abort();
    byId("prompt").focus();
  }

  /** Summarise changed parameters, shown while the form is collapsed. */
  #summarise() {
    const changed = [...byId("parameters").querySelectorAll("input, textarea")]
      .filter((field) => field.value.trim())
      .map((field) => {
        const label = byId("parameters").querySelector(`label[for=${field.id}]`).textContent;
        return field.type === "number" ? `${label.toLowerCase()} ${field.value}` : label.toLowerCase();
      });
    byId("settings-summary").textContent = changed.join(", ");
  }
}

/** A question and both answers. */
class Turn {
  constructor(app, text) {
    this.app = app;
    this.text = text;
    this.question = h("p", { class: "question" }, text);
    this.answers = Object.fromEntries(COLUMNS.map((column) => [column.name, new Answer(column)]));
    const pair = h("div", { class: "pair" }, ...Object.values(this.answers).map((a) => a.element));
    this.element = h("article", { class: "turn", "aria-label": text }, this.question, pair);
  }

  /** Note if both answers are the same. */
  compare() {
    const { edited, base } = this.answers;
    if (edited.isWhole && base.isWhole && edited.text === base.text) base.note("the same answer");
  }

  /** Mark the words that matched the edit, and offer to explain and to correct. */
  explain(messages, routed) {
    const at = routed.span ? this.text.indexOf(routed.span) : -1;
    if (at >= 0 && routed.span.length < this.text.length) {
      const end = at + routed.span.length;
      const mark = h("mark", { title: "These words matched the edit." }, routed.span);
      this.question.replaceChildren(this.text.slice(0, at), mark, this.text.slice(end));
    }
    const tools = h("div", { class: "row tools" });
    if (this.app.may("edit")) {
      const correct = () => this.app.edits.draft({ prompt: routed.span ?? this.text });
      tools.append(h("button", { type: "button", class: "quiet small", on: { click: correct } }, "Correct with an edit"));
    }
    this.answers.edited.element.append(tools);
    this.element.append(new Why(this.app, messages, routed).element);
  }
}

/** One model's answer, during and after generation. */
class Answer {
  text = "";
  routed = null;
  isWhole = false;
  #usage = null;
  #reason = null;
  #began = performance.now();

  constructor({ name, title }) {
    this.place = h("div", { class: "text", "aria-busy": "true" });
    this.facts = h("p", { class: "facts" });
    this.element = h("section", { class: `answer ${name}`, "aria-label": title },
      h("h3", {}, title), this.place, this.facts);
    this.name = name;
  }

  /** The text announced to screen readers. */
  get spoken() {
    return this.place.textContent;
  }

  add(chunk) {
    this.routed = chunk.scen;
    this.#usage = chunk.usage ?? this.#usage;
    for (const choice of chunk.choices) {
      const piece = choice.delta.content ?? "";
      this.text += piece;
      this.place.append(piece);
      this.#reason = choice.finish_reason ?? this.#reason;
    }
    if (this.name === "edited" && !this.facts.childNodes.length) this.#showFacts();
  }

  end(error = null) {
    this.place.setAttribute("aria-busy", "false");
    this.isWhole = error === null;
    if (error && error.name !== "AbortError") {
      this.place.append(h("span", { class: "bad" }, error.message));
    }
    this.#showFacts();
    if (error) this.note(error.name === "AbortError" ? "stopped" : "failed");
  }

  note(text) {
    this.facts.append(h("span", {}, text));
  }

  #showFacts() {
    this.facts.replaceChildren();
    if (!this.routed) return;
    const { version, edit_id: edit } = this.routed;
    if (this.name === "edited") {
      const label = edit === null ? "no edit answered" : `edit ${edit}`;
      this.facts.append(h("span", { class: edit === null ? "chip" : "chip on" }, label));
    }
    this.note(`version ${version}`);
    if (!this.#usage) return;
    const seconds = (performance.now() - this.#began) / 1000;
    this.note(`${count(this.#usage.completion_tokens, "token")} in ${seconds.toFixed(1)} s`);
    if (this.#reason === "length") this.note("cut at the token limit");
  }
}
