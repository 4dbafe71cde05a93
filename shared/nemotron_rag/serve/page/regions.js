// Where on a page a query is answered: boxes over its image, and beside it what stands in them.

// Boxes are in fractions of the image, so they fit it at every size; the list says the same to who does not see them.
export function showRegions(sheet, part, regions) {
  hideRegions(sheet, part);
  if (!regions.length) {
    say(part, "Nothing on this page stands out for this query.");
    return;
  }
  const list = document.createElement("ol");
  list.append(...regions.map(item));
  part.append(list);
  if (sheet.querySelector("img")) sheet.append(...regions.map(box));
}

export function hideRegions(sheet, part) {
  sheet.querySelectorAll(".box").forEach((one) => one.remove());
  part.replaceChildren();
}

export function say(part, text, className = "none") {
  part.replaceChildren(Object.assign(document.createElement("p"), { textContent: text, className }));
}

function box({ box: [left, top, right, bottom] }, place) {
  const made = document.createElement("span");
  made.className = "box";
  made.dataset.place = place + 1;
  made.setAttribute("aria-hidden", "true");
  const sides = { left, top, width: right - left, height: bottom - top };
  Object.entries(sides).forEach(([side, share]) => made.style.setProperty(side, `${100 * share}%`));
  return made;
}

function item({ text, box: [left, top] }) {
  const made = document.createElement("li");
  const percent = (share) => Math.round(100 * share);
  if (text) Object.assign(made, { textContent: text, dir: "auto" });
  else made.textContent = `no text, ${percent(left)} % from the left and ${percent(top)} % from the top`;
  return made;
}
