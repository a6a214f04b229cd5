// Why an edit answered, or none did: the nearest edits, their scores against the threshold, and the
// part of the message that matched each.

import { call } from "/static/api.js";
import { h } from "/static/dom.js";

const OPEN = "scen-why-open"; // whether explanations of new turns are expanded

export class Why {
  #isLoaded = false;

  /** `routed` is the field `scen` of the answer to `messages`. */
  constructor(app, messages, routed) {
    Object.assign(this, { app, messages, routed });
    const { edit_id: edit, score } = routed;
    const title = edit === null ? "Why did no edit answer?" : `Why did edit ${edit} answer?`;
    const figures = score === null ? "" : `score ${figure(score)}, threshold ${figure(app.me.threshold)}`;
    this.body = h("div", { class: "why-body", "aria-live": "polite" });
    this.element = h("details", { class: "why", on: { toggle: () => this.#toggled() } },
      h("summary", {}, title, " ", h("span", { class: "muted" }, figures)), this.body);
    if (sessionStorage.getItem(OPEN)) this.element.open = true;
  }

  async #toggled() {
    if (this.element.open) sessionStorage.setItem(OPEN, "yes");
    else sessionStorage.removeItem(OPEN);
    if (!this.element.open || this.#isLoaded) return;
    this.#isLoaded = true;
    this.body.replaceChildren(h("p", { class: "muted" }, "Reading the message again ..."));
    try {
      const body = { messages: this.messages, version: this.routed.version };
      this.#show(await call("POST", "/v1/explain", body));
    } catch (error) {
      this.#isLoaded = false; // expanding it again retries
      this.body.replaceChildren(h("p", { class: "bad" }, error.message));
    }
  }

  #show(explanation) {
    const { nearest, threshold } = explanation;
    const scale = scaleOf([threshold, ...nearest.map((near) => near.score)]);
    this.body.replaceChildren(
      h("p", {}, reason(explanation)),
      h("ol", { class: "plain near" }, ...nearest.map((near) => this.#row(near, threshold, scale))),
    );
    if (explanation.spans.length > 1) {
      const spans = explanation.spans.map((span) => h("li", {}, span));
      this.body.append(h("details", { class: "spans" },
        h("summary", {}, `The ${spans.length} compared parts of the message`),
        h("ul", {}, ...spans)));
    }
  }

  #row(near, threshold, scale) {
    const id = near.edit_id ?? "an edit of another stream";
    const open = () => this.app.edits.open(near.edit_id);
    const name = near.edit_id && this.app.may("edit")
      ? h("button", { type: "button", class: "link", on: { click: open } }, id)
      : h("span", {}, id);
    const facts = [
      near.prompt ? h("span", {}, near.prompt, " → ", h("b", {}, near.target)) : null,
      near.span ? h("span", { class: "muted" }, "matched by ", h("q", {}, near.span)) : null,
      near.version !== null ? h("span", { class: "muted" }, `since version ${near.version}`) : null,
    ];
    return h("li", { class: near.answers ? "answers" : "" },
      h("div", { class: "near-head" },
        h("span", { class: "near-name" }, name, near.answers ? h("span", { class: "chip on" }, "answered") : null),
        bar(near.score, threshold, scale), h("span", { class: "score" }, figure(near.score))),
      h("div", { class: "near-facts" }, ...facts));
  }
}

function reason({ nearest, threshold, version }) {
  if (!nearest.length) return `Version ${version} has no edits, so the base answered.`;
  const [first] = nearest;
  const name = first.edit_id ? `edit ${first.edit_id}` : "an edit of another stream";
  const side = first.answers ? "above" : "not above";
  const who = first.answers ? "the edit answered" : "the base answered";
  return `The nearest edit in version ${version} is ${name}. Its score ${figure(first.score)} is ${side} ` +
    `the threshold ${figure(threshold)}, so ${who}.`;
}

/** A bar up to the score, with a tick at the threshold. */
function bar(score, threshold, scale) {
  const label = `score ${figure(score)}, threshold ${figure(threshold)}`;
  const element = h("span", { class: "bar", role: "img", "aria-label": label, title: label },
    h("i", { class: score > threshold ? "fill above" : "fill" }), h("i", { class: "tick" }));
  element.style.setProperty("--score", `${scale(score)}%`);
  element.style.setProperty("--threshold", `${scale(threshold)}%`);
  return element;
}

/** Maps scores to per cent of a bar's length, with a margin at both ends. */
function scaleOf(values) {
  const low = Math.min(...values);
  const range = Math.max(...values) - low || 1;
  return (value) => 6 + (88 * (value - low)) / range;
}

const figure = (value) => (Math.abs(value) < 1.5 ? value.toFixed(3) : value.toFixed(2));
