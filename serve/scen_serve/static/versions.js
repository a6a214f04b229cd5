// Versions: the served one, the log, and for admins activate, canary and rollback.

import { call } from "/static/api.js";
import { announce, byId, confirm, count, h, when } from "/static/dom.js";

export class Versions {
  #state = null; // of /v1/snapshots
  #commits = [];
  #next = null;

  constructor(app) {
    this.app = app;
    byId("version-more").addEventListener("click", () => this.#read({ more: true }));
  }

  /** A new session. */
  begin() {
    this.#state = null;
    byId("versions-note").hidden = this.app.may("admin");
    byId("versions-note").textContent = "Choosing versions needs a key with the scope admin.";
  }

  show() {
    if (this.#state && this.app.may("read")) this.#read();
  }

  /** Called when another version is served. */
  serves(state) {
    this.#state = state;
    if (!byId("versions").hidden) this.#read();
  }

  async #read({ more = false } = {}) {
    const before = more && this.#next !== null ? `?before=${this.#next}` : "";
    try {
      const [state, page] = await Promise.all([call("GET", "/v1/snapshots"), call("GET", `/v1/snapshots/log${before}`)]);
      this.#state = state;
      this.#commits = more ? [...this.#commits, ...page.data] : page.data;
      this.#next = page.next;
      this.#draw();
    } catch (error) {
      byId("serving").replaceChildren(h("p", { class: "bad" }, error.message));
    }
  }

  #draw() {
    byId("serving").replaceChildren(...this.#serving());
    const rows = this.#commits.map((commit) => this.#row(commit));
    if (this.#next === null) rows.push(this.#row({ version: 0 }));
    byId("version-list").replaceChildren(...rows);
    byId("version-more").hidden = this.#next === null;
  }

  #serving() {
    const { served, newest, held, candidate, share, error, edits } = this.#state;
    const lines = [h("h2", {}, `Version ${served} is served`, h("span", { class: "muted" }, ` ${count(edits ?? 0, "edit")}`))];
    const tools = [];
    if (candidate !== null) {
      lines.push(h("p", {}, h("span", { class: "chip wait" }, "canary"),
        ` Version ${candidate} answers ${percent(share)} of the requests, version ${served} the others.`));
      tools.push(this.#button(`Promote version ${candidate}`, "primary", () => this.#activate(candidate)),
        this.#button("Change the share ...", "quiet", () => this.#canary(candidate)),
        this.#button(`End it, keep version ${served}`, "quiet", () => this.#activate(served)));
    } else if (held !== null) {
      lines.push(h("p", {}, h("span", { class: "chip wait" }, "held"),
        ` It is served until another is activated. The newest is version ${newest}.`));
    } else {
      lines.push(h("p", { class: "muted" }, "The newest version is served as soon as it is committed."));
    }
    if (held !== null || candidate !== null) {
      tools.push(this.#button("Follow the newest", "quiet", () => this.#activate("latest")));
    }
    if (error) lines.push(h("p", { class: "bad", role: "alert" }, error));
    if (this.app.may("admin") && tools.length) lines.push(h("p", { class: "row tools" }, ...tools));
    return lines;
  }

  #row({ version, action, stream, counts, at, to, who, why }) {
    const { served, newest, candidate, share } = this.#state;
    const badges = [
      version === served ? h("span", { class: "chip on" }, "served") : null,
      version === candidate ? h("span", { class: "chip wait" }, `canary ${percent(share)}`) : null,
      version === newest ? h("span", { class: "chip" }, "newest") : null,
    ];
    const what = version === 0 ? "the store before its first edit" : described(action, counts, to);
    return h("li", { class: "version", data: { version } },
      h("div", { class: "version-name" }, `${version}`),
      h("div", { class: "grow" },
        h("p", {}, what, " ", ...badges),
        at ? h("p", { class: "muted under" }, when(at), h("span", {}, stream), who && h("span", {}, `by ${who}`)) : null,
        why ? h("p", { class: "under" }, h("q", {}, why)) : null),
      this.app.may("admin") ? this.#tools(version) : "");
  }

  #tools(version) {
    const { served, newest, candidate } = this.#state;
    const button = (text, click) => this.#button(text, "quiet small", click, `${text.replace(" ...", "")} version ${version}`);
    return h("div", { class: "row tools" },
      version === served ? null : button("Activate", () => this.#activate(version)),
      version === served || version === candidate ? null : button("Canary ...", () => this.#canary(version)),
      version === newest ? null : button("Roll back ...", () => this.#rollBack(version)));
  }

  #button(text, kind, click, label = null) {
    return h("button", { type: "button", class: kind, "aria-label": label, on: { click } }, text);
  }

  async #activate(version) {
    const isNumber = version !== "latest";
    const done = await confirm({
      title: isNumber ? `Serve version ${version}?` : "Follow the newest version?",
      body: [h("p", {}, isNumber
        ? "All servers of the store use it until another is activated. Edits committed later are not served until then."
        : `All servers of the store use version ${this.#state.newest}, and each new version once it is committed.`)],
      action: isNumber ? `Serve version ${version}` : "Follow the newest",
      act: () => call("POST", `/v1/snapshots/${version}:activate`),
    });
    if (done) this.#changed(`Version ${done.served} is served.`);
  }

  async #canary(version) {
    const { share, candidate } = this.#state;
    const now = candidate === version ? Math.round(share * 1000) / 10 : 10;
    const input = h("input", { id: "share", name: "share", type: "number", min: "0.1", max: "99.9", step: "any", value: now });
    const done = await confirm({
      title: `Try version ${version}`,
      body: [
        h("p", {}, `Version ${version} answers a share of the requests that name no version; the served version answers the others.`),
        h("p", { class: "field" }, h("label", { for: "share" }, "Share in percent"), input),
      ],
      action: "Start the canary",
      act: ({ share: text }) => {
        const wanted = Number(text);
        if (!(wanted > 0 && wanted < 100)) throw new Error("Share: give a number between 0 and 100.");
        return call("POST", `/v1/snapshots/${version}:canary`, { share: wanted / 100 });
      },
    });
    if (done) this.#changed(`Version ${version} answers ${percent(done.share)} of the requests.`);
  }

  /** Show the planned changes, ask for a reason, then roll back. The server refuses if the store has
      advanced since, or if revoked edits would be restored without consent. */
  async #rollBack(to) {
    const { newest } = this.#state;
    const path = `/v1/snapshots/${to}:rollback`;
    const plan = h("div", { class: "plan", role: "status" }, "Checking what that changes ...");
    const why = h("textarea", { id: "why", name: "why", rows: "2" });
    call("POST", path, { newest, dry_run: true }).then(
      (changes) => plan.replaceChildren(...planned(changes)),
      (error) => plan.replaceChildren(h("p", { class: "bad" }, error.message)));
    const done = await confirm({
      title: `Roll back to version ${to}?`,
      body: [
        h("p", {}, `The edits of version ${to} become active again, in a new version; the log is kept.`),
        plan,
        h("p", { class: "field" }, h("label", { for: "why" }, "Reason, kept in the log"), why),
      ],
      action: "Roll back",
      danger: true,
      act: (values) => {
        if (!values.why.trim()) throw new Error("Give a reason: readers of the log will need it.");
        const bringBack = values.bring_back === "on";
        return call("POST", path, { newest, why: values.why, bring_back: bringBack });
      },
    });
    if (done) this.#changed(`Rolled back to version ${to}, as version ${done.version}.`);
  }

  async #changed(text) {
    announce(text);
    await this.app.refresh();
    await this.#read();
    byId("serving").focus(); // the focused button was removed
  }
}

/** The planned changes of a rollback, as elements. */
function planned({ revoked, restored, unwanted }) {
  if (!revoked.length && !restored.length) return [h("p", {}, "Nothing: the same edits are active now.")];
  const lines = [];
  if (revoked.length) lines.push(h("p", {}, h("b", {}, count(revoked.length, "edit")), " deactivated: ", some(revoked)));
  if (restored.length) lines.push(h("p", {}, h("b", {}, count(restored.length, "edit")), " restored: ", some(restored)));
  if (unwanted.length) {
    lines.push(h("p", { class: "check" },
      h("input", { type: "checkbox", id: "bring-back", name: "bring_back" }),
      h("label", { for: "bring-back" }, `Also restore edits that were revoked or have expired: ${some(unwanted)}`)));
  }
  return lines;
}

function described(action, counts, to) {
  const parts = Object.entries(counts).map(([kind, number], index) =>
    (index === 0 ? `${count(number, "edit")} ${kind}` : `${number} ${kind}`));
  if (action === "rollback") parts.unshift(`rolled back to ${to}`);
  return parts.join(", ") || action;
}

const some = (ids) => ids.slice(0, 5).join(", ") + (ids.length > 5 ? ` and ${ids.length - 5} more` : "");
const percent = (share) => `${Math.round(share * 1000) / 10} %`;
