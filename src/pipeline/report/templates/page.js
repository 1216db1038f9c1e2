// Everything here adds to a page that is whole without it: values under the pointer, tables that can be sorted, compared
// and copied, and figures and tables to download.
"use strict";
(() => {
  const make = (tag, attributes, ...children) => {
    const element = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes || {})) element.setAttribute(key, value);
    element.append(...children);
    return element;
  };
  const button = (text, label, action) => {
    const element = make("button", { type: "button", "aria-label": label }, text);
    element.addEventListener("click", () => action(element));
    return element;
  };
  const announce = make("p", { class: "skip", role: "status" });
  document.body.append(announce);
  const flash = (element, word) => {
    const before = element.textContent;
    element.textContent = word;
    announce.textContent = word;
    setTimeout(() => { element.textContent = before; }, 1500);
  };
  const save = (name, type, text) => {
    const link = make("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  // A page from a file has a clipboard only where the browser lets it: otherwise the older way is tried.
  const copied = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      const area = make("textarea", { class: "skip" });
      area.value = text;
      document.body.append(area);
      area.select();
      const done = document.execCommand("copy");
      area.remove();
      return done;
    }
  };
  const copier = (label, rows) => button("Copy", label, async (element) => {
    flash(element, (await copied(lines(rows(), "\t"))) ? "Copied" : "Refused");
  });
  const study = document.body.dataset.study || "study";
  const quoted = (value, separator) => {
    const text = value === null ? "" : String(value);
    return text.includes('"') || text.includes(separator) || text.includes("\n") ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const lines = (rows, separator) => rows.map((row) => row.map((value) => quoted(value, separator)).join(separator)).join("\n") + "\n";

  // A figure on its own: colors that the page's theme would give become those of white paper.
  const alone = (svg) => {
    const copy = svg.cloneNode(true);
    copy.querySelectorAll(".pointer").forEach((mark) => mark.remove());
    copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
    copy.setAttribute("xmlns:xlink", "http://www.w3.org/1999/xlink");
    copy.setAttribute("font-family", "sans-serif");
    return copy.outerHTML.replace(/var\(--[\w-]+, ?([^)]*)\)/g, "$1");
  };

  const tip = make("div", { class: "tip", hidden: "" });
  document.body.append(tip);

  const words = (data, row) => data.columns
    .map((column, place) => [column, data.rows[row][place]])
    .filter(([, value]) => value !== null)
    .map(([column, value]) => `${column} ${typeof value === "number" ? String(value).replace("-", "−") : value}`);

  // The cells of a grid become rows with places; what stood there before is marked on top of them.
  const whole = (data) => {
    data.marks = data.places.length;
    if (!data.grid) return data;
    const { x, y, values, across, down } = data.grid, blank = Array(data.columns.length - 3).fill(null);
    y.forEach((up, i) => x.forEach((right, j) => {
      data.rows.push([right, up, ...blank, values[i][j]]);
      data.places.push([across[j], down[i]]);
    }));
    return data;
  };

  const explorable = (panel, data) => {
    const svg = panel.querySelector("svg"), holder = svg.parentElement;
    // A circle around a mark, or the outline of a rectangle.
    const mark = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    mark.setAttribute("class", "pointer");
    svg.append(mark);
    let current = -1;
    const hide = () => { tip.hidden = true; mark.removeAttribute("x"); };
    const show = (row) => {
      current = row;
      const [x, y, across, down] = data.places[row];
      const point = across === undefined, half = point ? [5, 5] : [Math.max(across, 1), Math.max(down, 1)];
      const shape = { x: x - half[0], y: y - half[1], width: 2 * half[0], height: 2 * half[1], rx: point ? 5 : 0 };
      for (const [key, value] of Object.entries(shape)) mark.setAttribute(key, value);
      tip.replaceChildren(...words(data, row).map((line) => make("div", {}, line)));
      tip.hidden = false;
      const box = mark.getBoundingClientRect();
      const left = Math.min(Math.max(8, box.right + 8), innerWidth - tip.offsetWidth - 8);
      const above = box.top - tip.offsetHeight - 8;
      tip.style.left = `${left + scrollX}px`;
      tip.style.top = `${(above > 0 ? above : box.bottom + 8) + scrollY}px`;
    };
    // Wherever the pointer is, something is nearest; only what is drawn on a grid has to be met.
    const nearest = (event) => {
      const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      const among = (first, last, reach) => {
        let best = -1, least = reach ** 2;
        for (let row = first; row < last; row++) {
          const [x, y, across = 0, down = 0] = data.places[row];
          const distance = Math.max(Math.abs(x - at.x) - across, 0) ** 2 + Math.max(Math.abs(y - at.y) - down, 0) ** 2;
          if (distance < least) [best, least] = [row, distance];
        }
        return best;
      };
      const mark = among(0, data.marks, data.grid ? 4 : Infinity);
      return mark < 0 ? among(data.marks, data.places.length, Infinity) : mark;
    };
    holder.addEventListener("pointermove", (event) => {
      const row = nearest(event);
      if (row < 0) hide();
      else if (row !== current || tip.hidden) show(row);
    });
    holder.addEventListener("pointerleave", hide);
    holder.tabIndex = 0;
    holder.setAttribute("aria-roledescription", "figure; arrow keys read out its values");
    holder.addEventListener("blur", hide);
    holder.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (event.key === "Escape") hide();
      if (!step) return;
      event.preventDefault();
      show((current + step + data.places.length) % data.places.length);
      announce.textContent = words(data, current).join(", ");
    });
  };

  for (const panel of document.querySelectorAll(".panel[data-name]")) {
    const name = `${study}-${panel.dataset.name}`;
    const tools = make("div", { class: "tools" });
    tools.append(button("SVG", `Download the figure ${name} as SVG`, () => save(`${name}.svg`, "image/svg+xml", alone(panel.querySelector("svg")))));
    const kept = panel.querySelector('script[type="application/json"]');
    if (kept) {
      const data = whole(JSON.parse(kept.textContent));
      tools.append(button("CSV", `Download the data of figure ${name} as CSV`, () => save(`${name}.csv`, "text/csv", lines([data.columns, ...data.rows], ","))));
      if (data.places.length) explorable(panel, data);
    }
    panel.append(tools);
  }

  // The rows of a table, each with those that explain it.
  const rowsOf = (body) => {
    const rows = [];
    for (const row of body.rows) {
      if (row.classList.contains("details") && rows.length) rows.at(-1).push(row);
      else rows.push([row]);
    }
    return rows;
  };
  const plain = (cell) => {
    const values = [...cell.querySelectorAll(".value, td > div > div")];
    const parts = values.length ? values : [...cell.childNodes].filter((node) => !node.classList?.contains("delta"));
    return parts.map((one) => one.textContent.trim()).filter(Boolean).join(" ");
  };
  const valueOf = (cell) => (cell?.dataset.value === undefined ? NaN : Number(cell.dataset.value));
  const content = (table, exact) => [
    [...table.tHead.rows[0].cells].map((cell) => cell.textContent.trim()),
    ...rowsOf(table.tBodies[0]).map(([row]) => [...row.cells].map((cell) => (exact && cell.dataset.value !== undefined && !cell.querySelector("div")
      ? cell.dataset.value : plain(cell)))),
  ];

  const sortable = (table) => {
    [...table.tHead.rows[0].cells].forEach((head, place) => {
      const sort = button(head.textContent, `Sort by ${head.textContent}`, () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        const order = (a, b) => {
          const [one, two] = [a, b].map(([row]) => row.cells[place]);
          const [x, y] = [valueOf(one), valueOf(two)];
          if (Number.isNaN(x) !== Number.isNaN(y)) return Number.isNaN(x) ? 1 : -1;  // what is unknown stays last
          const found = Number.isNaN(x) ? plain(one).localeCompare(plain(two), undefined, { numeric: true }) : x - y;
          return down ? -found : found;
        };
        for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        table.tBodies[0].append(...rowsOf(table.tBodies[0]).sort(order).flat());
      });
      sort.removeAttribute("aria-label");
      head.replaceChildren(sort);
    });
  };

  const difference = (head, value, base) => {
    if (head.dataset.compared === "ratio") return base ? `${(value / base).toPrecision(3)}×` : "";
    const text = (value - base).toPrecision(2);
    return `${value >= base ? "+" : "−"}${text.replace("-", "")}`;
  };
  const comparable = (table, tools) => {
    const heads = [...table.tHead.rows[0].cells];
    if (!heads.some((head) => head.dataset.compared) || table.tBodies[0].rows.length < 2) return;
    const select = make("select", {}, make("option", { value: "" }, "no baseline"));
    rowsOf(table.tBodies[0]).forEach(([row], place) => {
      row.dataset.place = place;
      select.append(make("option", { value: place }, `against ${plain(row.cells[0])}`));
    });
    select.addEventListener("change", () => {
      table.querySelectorAll(".delta").forEach((mark) => mark.remove());
      if (select.value === "") return;
      const base = table.querySelector(`tr[data-place="${select.value}"]`);
      for (const [row] of rowsOf(table.tBodies[0])) {
        heads.forEach((head, place) => {
          const [value, against] = [row, base].map((one) => valueOf(one.cells[place]));
          if (!head.dataset.compared || row === base || Number.isNaN(value) || Number.isNaN(against)) return;
          row.cells[place].append(make("span", { class: "delta" }, difference(head, value, against)));
        });
      }
    });
    tools.append(make("label", {}, "Compare ", select));
  };

  document.querySelectorAll(".facts").forEach((holder) => {
    const rows = [...holder.querySelectorAll("dl > div")].map((row) => [...row.children].map((cell) => cell.textContent));
    holder.append(make("div", { class: "tools" }, copier("Copy these values, for a spreadsheet", () => rows)));
  });

  // Paper cannot be unfolded.
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open])")];
    for (const details of folded) details.open = true;
  });
  addEventListener("afterprint", () => { for (const details of folded) details.open = false; });

  document.querySelectorAll(".table").forEach((holder, place) => {
    const table = holder.querySelector("table");
    const tools = make("div", { class: "tools" });
    comparable(table, tools);
    tools.append(
      copier("Copy the table, for a spreadsheet", () => content(table, true)),
      button("CSV", "Download the table as CSV", () => save(`${study}-table-${place + 1}.csv`, "text/csv", lines(content(table, true), ","))),
    );
    if (!table.classList.contains("claims")) sortable(table);
    holder.append(tools);
  });
})();
