// Requests to the server that the page came from, with the key that it asks for.

export const KEY = "nemotron-rag-key"; // in the storage of the tab
const urls = new Set(); // of images that are shown

class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export async function ask(path, { body, signal } = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  if (body) headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The server cannot be reached.");
  }
  if (answer.ok) return answer;
  const found = await answer.json().catch(() => ({}));
  throw new Refused(answer.status, found.error?.message ?? `The server answered ${answer.status}.`);
}

export async function imageUrl(path, options) {
  const url = URL.createObjectURL(await (await ask(path, options)).blob());
  urls.add(url);
  return url;
}

export function forgetImages() {
  urls.forEach((url) => URL.revokeObjectURL(url));
  urls.clear();
}
