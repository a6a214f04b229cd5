// The server's API. The API key is kept in sessionStorage: closing the tab removes it.

const KEY = "scen-api-key";

export const apiKey = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (key) => sessionStorage.setItem(KEY, key),
  forget: () => sessionStorage.removeItem(KEY),
};

/** An error response. `field` is the field of the request at fault. */
export class ApiError extends Error {
  constructor(message, { status = 0, field = null, retrySeconds = 0 } = {}) {
    super(message);
    Object.assign(this, { status, field, retrySeconds });
  }
}

/** The JSON response of a route. Throws ApiError. */
export async function call(method, path, body) {
  const response = await request(method, path, body);
  return response.json();
}

/** The chunks of an event stream as they arrive. Throws ApiError, and AbortError when stopped. */
export async function* stream(path, body, signal) {
  const response = await request("POST", path, body, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw errorOf(chunk, {});
      yield chunk;
    }
  }
}

async function request(method, path, body, signal) {
  const headers = {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (apiKey.get()) headers.Authorization = `Bearer ${apiKey.get()}`;
  let response;
  try {
    response = await fetch(path, { method, headers, signal, body: body && JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server cannot be reached. Is it running?");
  }
  if (response.ok) return response;
  const failure = await response.json().catch(() => ({}));
  const retrySeconds = Number(response.headers.get("Retry-After") ?? 0);
  throw errorOf(failure, { status: response.status, retrySeconds });
}

function errorOf({ error = {} }, { status = 0, retrySeconds = 0 }) {
  const message = error.message ?? `The server answered with status ${status}.`;
  const named = /^([a-z_]+(?:\[\d+\])?)(?:\.[a-z_.]+)?: /.exec(message);
  const field = named ? named[1] : error.param ?? null;
  return new ApiError(message, { status, field, retrySeconds });
}
