// The search page: asks the server it came from, and puts what it answers into the page as text, never as HTML.

import { hideRegions, say as sayThere, showRegions } from "./regions.js";
import { ask, forgetImages, imageUrl, KEY } from "./server.js";

const THUMBNAIL = 480; // pixels of the longer side
const at = (id) => document.getElementById(id);
const state = { hits: [], about: null, documents: new Set(), query: "", asking: null, open: -1 };

// ---- texts ----

// Control characters and those that turn the direction of writing are shown as what they are.
function printable(text) {
  return text.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (found) => {
    const joins = found === "\u200c" || found === "\u200d";
    return joins ? found : `\\u{${found.codePointAt(0).toString(16)}}`;
  });
}

function fileName(hit) {
  const parts = (hit.source || hit.id).split(/[\\/]/);
  return printable(parts.findLast((part) => part) ?? hit.id);
}

const title = (hit) => `${fileName(hit)}, page ${hit.page_number}`;
const score = (value) => (value === null ? "none" : value.toFixed(3));

function scores(hit) {
  const found = [["retrieval", hit.retrieval_score]];
  if (state.reranked) found.unshift(["reranker", hit.score]);
  return found.flatMap(([stage, value]) => {
    const pair = document.createElement("div");
    pair.append(element("dt", stage), element("dd", score(value)));
    return pair;
  });
}

function element(name, text, className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  made.className = className;
  return made;
}

function say(status, error = "") {
  at("status").textContent = status;
  at("error").textContent = error;
}

// ---- hits ----

const whenSeen = new IntersectionObserver(
  (entries) =>
    entries
      .filter((entry) => entry.isIntersecting)
      .forEach(({ target }) => {
        whenSeen.unobserve(target);
        showImage(target, target.hit, thumbnail(target.hit));
      }),
  { rootMargin: "400px" },
);

function showHit(hit, place) {
  const card = at("hit").content.cloneNode(true).firstElementChild;
  const find = (selector) => card.querySelector(selector);
  find(".rank").textContent = hit.rank;
  find(".name").textContent = fileName(hit);
  find(".name").title = printable(hit.source ?? "");
  find(".page").textContent = `page ${hit.page_number}`;
  find("dl").append(...scores(hit));
  find(".text").append(...excerpt(hit));
  const open = find(".open");
  open.setAttribute("aria-label", `Open ${title(hit)}`);
  open.addEventListener("click", () => view(place));
  const only = find(".only");
  only.hidden = !hit.source;
  only.addEventListener("click", () => searchOnly(hit.source));
  const sheet = find(".sheet");
  sheet.hit = hit;
  if (hit.image) {
    whenSeen.observe(sheet);
    offerWhere(find(".where"), sheet, find(".regions"), hit, thumbnail(hit));
  } else {
    open.replaceChildren(element("span", "no image", "none"));
  }
  return card;
}

function excerpt(hit) {
  if (!hit.excerpt.length) return [element("span", "This page has no text, only its image.", "none")];
  return hit.excerpt.map(({ text, is_match }) => (is_match ? element("mark", text) : document.createTextNode(text)));
}

const thumbnail = (hit) => `${hit.image.slice(1)}?max_side=${THUMBNAIL}`;

async function showImage(sheet, hit, path) {
  try {
    await putImage(sheet, path, title(hit));
  } catch (error) {
    if (error.name !== "AbortError") sheet.querySelector("img")?.replaceWith(element("span", error.message, "none"));
  }
}

async function putImage(sheet, path, alt, options = {}) {
  const image = sheet.querySelector("img");
  if (!image) return;
  sheet.setAttribute("aria-busy", "true");
  try {
    image.src = await imageUrl(path, { ...options, signal: state.asking?.signal });
    image.alt = alt;
  } finally {
    sheet.removeAttribute("aria-busy");
  }
}

// Where on a page the query matches: boxes, and with a late-interaction model heat too, painted over its image; and back.
function offerWhere(button, sheet, part, hit, path) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const isShown = button.getAttribute("aria-pressed") === "true";
    button.disabled = true;
    hideRegions(sheet, part);
    if (!isShown) await showWhere(sheet, part, hit);
    else if (state.about.heatmaps) await showImage(sheet, hit, path);
    button.disabled = false;
    button.setAttribute("aria-pressed", String(!isShown));
    if (document.activeElement === document.body || part.closest("dialog")) button.focus();
  });
}

async function showWhere(sheet, part, hit) {
  const body = { image: hit.image, query: state.query };
  const alt = `${title(hit)}: where it matches`;
  const heat = state.about.heatmaps ? putImage(sheet, "v1/heatmap", alt, { body }) : null;
  try {
    const [answer] = await Promise.all([ask("v1/regions", { body, signal: state.asking?.signal }), heat]);
    showRegions(sheet, part, (await answer.json()).regions);
  } catch (error) {
    if (error.name !== "AbortError") sayThere(part, error.message, "error");
  }
}

// ---- one page, large ----

function view(place) {
  const hit = state.hits[place];
  if (!hit) return;
  state.open = place;
  at("viewer-title").textContent = `${hit.rank}. ${title(hit)}`;
  at("previous").disabled = place === 0;
  at("next").disabled = place === state.hits.length - 1;
  const sheet = hit.image ? largeSheet(hit) : null;
  at("viewer-body").replaceChildren(...(sheet ? [sheet] : []), facts(hit, sheet));
  if (!at("viewer").open) at("viewer").showModal();
  at("viewer").scrollTop = 0;
}

function largeSheet(hit) {
  const sheet = element("figure", "", "sheet");
  const image = document.createElement("img");
  image.alt = "";
  sheet.append(image);
  showImage(sheet, hit, hit.image.slice(1));
  return sheet;
}

function facts(hit, sheet) {
  const part = document.createElement("div");
  const list = document.createElement("dl");
  list.append(...scores(hit));
  const text = element("p", hit.text.trim() || "This page has no text, only its image.", "text");
  text.dir = "auto";
  part.append(list, text);
  if (sheet) {
    const where = at("where").content.cloneNode(true);
    offerWhere(where.querySelector("button"), sheet, where.querySelector(".regions"), hit, hit.image.slice(1));
    list.after(where);
  }
  return part;
}

// ---- searching ----

function asked() {
  const given = new URLSearchParams(location.hash.slice(1));
  return { query: given.get("q") ?? "", document: given.get("document") ?? "", k: given.get("k"), rerank: given.get("rerank") };
}

// What is asked stands behind the # of the address: it can be kept and sent on, and the server's log never has it.
function remember() {
  const given = new URLSearchParams({ q: at("query").value.trim(), k: at("k").value });
  const name = documentNamed(at("document").value);
  if (name) given.set("document", name);
  if (state.about.reranker && !at("rerank").checked) given.set("rerank", "no");
  if (location.hash.slice(1) === given.toString()) search();
  else location.hash = given.toString();
}

// The document that a field shows, which leaves line breaks out.
function documentNamed(shown) {
  const squeezed = (text) => text.replace(/\s/g, "");
  if (state.documents.has(shown)) return shown;
  return [...state.documents].find((name) => shown && squeezed(name) === squeezed(shown)) ?? shown;
}

function searchOnly(source) {
  at("document").value = source;
  remember();
  at("query").focus();
}

function filter(name) {
  if (!name) return null;
  return { source: state.documents.has(name) ? name : { contains: name } };
}

async function search() {
  const { query, document: name, k, rerank } = asked();
  state.asking?.abort();
  if (!query) return;
  state.asking = new AbortController();
  const { signal } = state.asking;
  fill();
  say("Searching …");
  at("hits").setAttribute("aria-busy", "true");
  const body = { query, k: Number(k) || 10, rerank: rerank !== "no", filter: filter(name), excerpts: true };
  try {
    const answer = await (await ask("v1/search", { body, signal })).json();
    state.query = query;
    state.reranked = Boolean(state.about.reranker) && body.rerank;
    show(answer.hits);
  } catch (error) {
    if (error.name === "AbortError") return;
    show([]);
    fail(error);
  } finally {
    if (!signal.aborted) at("hits").removeAttribute("aria-busy");
  }
}

function show(hits) {
  forgetImages();
  if (at("viewer").open) at("viewer").close();
  state.hits = hits;
  hits.forEach((hit) => hit.source && state.documents.add(hit.source));
  at("hits").replaceChildren(...hits.map(showHit));
  say(hits.length ? `${hits.length} ${hits.length === 1 ? "page" : "pages"} found` : "No page was found.");
}

function fail(error) {
  say("", error.message);
  if (error.status === 401) askForKey();
}

function fill() {
  const { query, document: name, k, rerank } = asked();
  at("query").value = query;
  at("document").value = name;
  if ([...at("k").options].some((option) => option.value === k)) at("k").value = k;
  at("rerank").checked = rerank !== "no";
}

// ---- begin ----

function askForKey(message = "") {
  sessionStorage.removeItem(KEY);
  at("main").hidden = true;
  at("key-form").hidden = false;
  at("about").textContent = message;
  at("key").value = "";
  at("key").focus();
}

async function begin() {
  try {
    state.about = await (await ask("v1/index")).json();
  } catch (error) {
    if (error.status === 401) askForKey(sessionStorage.getItem(KEY) ? "This key is not the server’s." : "");
    else at("about").textContent = error.message;
    return;
  }
  const { pages, document_count: count, documents, reranker } = state.about;
  at("about").textContent = `${pages} pages of ${count} ${count === 1 ? "document" : "documents"}`;
  at("documents").replaceChildren(
    ...documents.map((name) => Object.assign(document.createElement("option"), { value: name })),
  );
  state.documents = new Set(documents);
  at("rerank-choice").hidden = !reranker;
  at("key-form").hidden = true;
  at("main").hidden = false;
  at("query").focus();
  fill();
  search();
}

function move(step) {
  const stops = [at("query"), ...document.querySelectorAll("#hits .open")];
  const here = document.activeElement.closest(".hit")?.querySelector(".open") ?? document.activeElement;
  const next = stops[stops.indexOf(here) + step];
  if (!next || !stops.includes(here)) return false;
  next.focus();
  next.closest(".hit")?.scrollIntoView({ block: "nearest" });
  return true;
}

at("search-form").addEventListener("submit", (event) => {
  event.preventDefault();
  remember();
});
at("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, at("key").value);
  begin();
});
at("main").addEventListener("keydown", (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  const isField = event.target.matches("input, select") && event.target !== at("query");
  if (step && !isField && move(step)) event.preventDefault();
});
at("viewer").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (step) view(state.open + step);
});
at("viewer").addEventListener("close", () => document.querySelectorAll("#hits .open")[state.open]?.focus());
at("previous").addEventListener("click", () => view(state.open - 1));
at("next").addEventListener("click", () => view(state.open + 1));
at("close").addEventListener("click", () => at("viewer").close());
window.addEventListener("hashchange", search);
begin();
