// Put into a page that holds the report's text: look at it at three widths, use it, and write down what is found.
"use strict";
const text = JSON.parse(document.getElementById("report").textContent);
const found = {};

const collisions = (view) => {
  const hits = [];
  for (const panel of view.querySelectorAll(".panel")) {
    const boxes = [...panel.querySelectorAll("svg text")].map((label) => [label.textContent, label.getBoundingClientRect()]);
    boxes.forEach(([one, a], place) => boxes.slice(place + 1).forEach(([two, b]) => {
      const width = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const height = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      // A line of text is higher than its letters.
      if (width > 1 && height > 0.35 * Math.min(a.height, b.height)) hits.push(`${panel.dataset.name}: ${one} | ${two}`);
    }));
  }
  return hits;
};

// Height of a letter of a figure as it is shown, in pixels.
const size = (label) => {
  const { a, b } = label.getScreenCTM();  // of a rotated label, a alone is zero
  return parseFloat(label.ownerDocument.defaultView.getComputedStyle(label).fontSize) * Math.hypot(a, b);
};

// Cells whose words are torn apart: one line of text that is spread over the width of its cell.
const torn = (page) => [...page.querySelectorAll(".stacked td[data-title]:not(.bars)")]
  .filter((cell) => [...cell.childNodes].filter((node) => node.textContent.trim()).length > 1)
  .map((cell) => cell.textContent);

// Panels that tell nothing of what lies in their middle, or tell it outside the window.
const silent = (view, window_) => {
  const tip = view.querySelector(".tip");
  return [...view.querySelectorAll(".panel")].filter((panel) => {
    const holder = panel.querySelector("svg").parentElement;
    holder.scrollIntoView({ block: "center" });
    const box = panel.querySelector("svg").getBoundingClientRect();
    const at = { clientX: (box.left + box.right) / 2, clientY: (box.top + box.bottom) / 2, bubbles: true };
    tip.hidden = true;
    holder.dispatchEvent(new window_.PointerEvent("pointermove", at));
    const shown = tip.getBoundingClientRect();
    const whole = !tip.hidden && shown.left >= 0 && shown.right <= window_.innerWidth && /\d/.test(tip.textContent);
    holder.dispatchEvent(new window_.PointerEvent("pointerleave"));
    return !whole || !tip.hidden;
  }).map((panel) => panel.dataset.name);
};

const look = async (width) => {
  const frame = document.createElement("iframe");
  frame.style.cssText = `border:0;width:${width}px;height:900px`;
  const loaded = new Promise((done) => { frame.onload = done; });
  frame.srcdoc = text;
  document.body.append(frame);
  await loaded;
  const view = frame.contentDocument, window_ = frame.contentWindow;
  view.querySelectorAll("details").forEach((details) => { details.open = true; });
  const cut = [...view.querySelectorAll(".table")].filter((holder) => holder.scrollWidth > holder.clientWidth + 1);
  const result = {
    overflow: view.documentElement.scrollWidth - width,
    cut: cut.map((holder) => holder.getAttribute("aria-label")),
    collisions: collisions(view),
    torn: torn(view),
    smallest: Math.min(...[...view.querySelectorAll(".panel svg text")].map(size)),
  };
  if (width > 1000) Object.assign(result, use(view, window_), await download(view, window_));
  result.silent = silent(view, window_);
  frame.remove();
  return result;
};

// The page as one sees it whose browser runs no scripts: a frame without the right to.
const withoutScript = async () => {
  const frame = document.createElement("iframe");
  frame.sandbox = "allow-same-origin";
  frame.style.cssText = "border:0;width:1280px;height:900px";
  const loaded = new Promise((done) => { frame.onload = done; });
  frame.srcdoc = text;
  document.body.append(frame);
  await loaded;
  const view = frame.contentDocument;
  const shown = [...view.querySelectorAll("table, figure svg")].filter((one) => !one.closest("details"));
  const result = {
    buttons: view.querySelectorAll("button, select").length,
    hidden: shown.filter((one) => !one.getBoundingClientRect().height).length,
    shown: shown.length,
    folded: view.querySelectorAll("details > summary").length,
  };
  frame.remove();
  return result;
};

const use = (view, window_) => {
  const result = {};
  const first = [...view.querySelectorAll(".answer, .first")].at(-1).getBoundingClientRect();
  result.firstScreen = first.bottom;
  const folds = [...view.querySelectorAll("details")];
  const open = () => folds.filter((details) => details.open).length;
  for (const details of folds) details.open = false;
  window_.dispatchEvent(new window_.Event("beforeprint"));
  result.printed = [folds.length, open()];
  window_.dispatchEvent(new window_.Event("afterprint"));
  result.printed.push(open());
  result.copiers = [...view.querySelectorAll(".table, .facts")].filter((one) => !one.querySelector(".tools button")).length;
  const table = [...view.querySelectorAll("table")].find((one) => one.querySelector("[data-compared]"));
  const heads = [...table.tHead.rows[0].cells];
  const column = (place) => [...table.tBodies[0].rows].map((row) => row.cells[place].dataset.value).map(Number);
  const steps = heads.findIndex((head) => head.textContent === "Steps");
  heads[steps].querySelector("button").click();
  result.ascending = column(steps);
  heads[steps].querySelector("button").click();
  result.descending = column(steps);
  result.sorted = heads[steps].getAttribute("aria-sort");
  const select = table.closest(".table").querySelector("select");
  select.value = "0";
  select.dispatchEvent(new window_.Event("change"));
  result.compared = [...table.querySelectorAll(".delta")].map((mark) => mark.textContent);
  const panel = view.querySelector(".panel[data-name=progress]");
  const holder = panel.querySelector("svg").parentElement;
  holder.dispatchEvent(new window_.KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true }));
  result.said = view.querySelector("[role=status]").textContent;
  result.tip = view.querySelector(".tip").textContent;
  const mark = panel.querySelector(".pointer").getBoundingClientRect(), box = holder.getBoundingClientRect();
  result.inside = mark.left >= box.left - 6 && mark.right <= box.right + 6;
  result.tools = [...panel.querySelectorAll(".tools button")].map((one) => one.textContent);
  return result;
};

// What the buttons of a figure and of a table would save, and what is copied.
const download = async (view, window_) => {
  const saved = [];
  window_.URL.createObjectURL = (blob) => { saved.push(blob); return "#"; };
  window_.HTMLAnchorElement.prototype.click = () => {};  // nothing is to land on this machine's disk
  for (const one of view.querySelectorAll(".panel[data-name=progress] .tools button")) one.click();
  [...view.querySelector(".table table:not(.claims)").closest(".table").querySelectorAll(".tools button")].at(-1).click();
  const [svg, csv, table] = await Promise.all(saved.map((blob) => blob.text()));
  const parsed = new window_.DOMParser().parseFromString(svg, "image/svg+xml");
  return {
    svg: [parsed.documentElement.tagName, svg.includes("var(--"), svg.includes("pointer"), parsed.querySelectorAll("text").length],
    csv: csv.split("\n").slice(0, 2),
    table: table.split("\n").slice(0, 2),
  };
};

(async () => {
  for (const width of [1280, 820, 390]) {
    try { found[width] = await look(width); } catch (error) { found[width] = { error: String(error) }; }
  }
  found.plain = await withoutScript();
  const out = document.createElement("pre");
  out.id = "found";
  out.textContent = JSON.stringify(found);
  document.body.replaceChildren(out);
})();
