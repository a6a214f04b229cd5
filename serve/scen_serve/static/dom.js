// DOM helpers. All text is inserted as text nodes: nothing here or elsewhere parses HTML.

export const byId = (id) => document.getElementById(id);

/** An element. Properties: `class`, `on` (listeners by event), `data`, else attributes. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  const { class: classes, on = {}, data = {}, ...attributes } = properties;
  if (classes) element.className = classes;
  for (const [event, listener] of Object.entries(on)) element.addEventListener(event, listener);
  Object.assign(element.dataset, data);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) {
      element.setAttribute(name, value);
    }
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Announce a text to screen readers. */
export function announce(text) {
  byId("live").textContent = text;
}

/** "1 edit", "2 edits". */
export const count = (number, noun) =>
  `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

/** A time relative to now; the exact time is its title. */
export function when(iso) {
  const moment = new Date(iso);
  const seconds = (Date.now() - moment.getTime()) / 1000;
  const steps = [[60, "second"], [60, "minute"], [24, "hour"], [30, "day"], [12, "month"], [Infinity, "year"]];
  let amount = Math.max(0, seconds);
  const step = steps.find(([size]) => amount < size || ((amount /= size), false));
  const format = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
  const text = seconds < 10 ? "just now" : format.format(-Math.round(amount), step[1]);
  return h("time", { datetime: iso, title: moment.toLocaleString() }, text);
}

/** Fit a textarea's height to its text, within the limit of the style sheet. */
export function growing(area) {
  const fit = () => {
    area.style.height = "auto";
    area.style.height = `${area.scrollHeight + 2}px`;
  };
  area.addEventListener("input", fit);
  return fit;
}

/** Ask for confirmation. `act(values)` is called with the values of named fields; if it throws, the
    dialog shows the error and stays open. Resolves to what `act` returned, or null if cancelled. */
export function confirm({ title, body = [], action, danger = false, act }) {
  return new Promise((resolve) => {
    const error = h("p", { class: "field-error", role: "alert" });
    const go = h("button", { class: danger ? "danger" : "primary" }, action);
    const cancel = h("button", { type: "button", on: { click: () => dialog.close() } }, "Cancel");
    const form = h("form", { novalidate: true }, h("h2", { id: "dialog-title" }, title),
      ...body, error, h("p", { class: "row end" }, cancel, go));
    const dialog = h("dialog", { "aria-labelledby": "dialog-title" }, form);
    let result = null;
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      go.disabled = true;
      error.textContent = "";
      try {
        result = await act(Object.fromEntries(new FormData(form)));
        dialog.close();
      } catch (failure) {
        error.textContent = failure.message;
      }
      go.disabled = false;
    });
    form.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && event.ctrlKey) form.requestSubmit();
    });
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(result);
    });
    document.body.append(dialog);
    dialog.showModal();
    (form.querySelector("textarea, input") ?? cancel).focus();
  });
}
