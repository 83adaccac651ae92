"use strict";

// A click on a heading sorts the table by that column, a second one the other way round. A cell says in data-sort by
// what number it is sorted where its text is none; what has no value stands last either way.
function sortable(table) {
  const body = table.tBodies[0];
  table.querySelectorAll("th").forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = (row) => row.cells[column].dataset.sort ?? row.cells[column].textContent;
      const rows = [...body.rows].map((row) => [value(row), row]);
      const missing = (text) => text === "" || text === "-";
      rows.sort(([a], [b]) => {
        if (missing(a) || missing(b)) return missing(a) - missing(b);
        const order = isNaN(a) || isNaN(b) ? a.localeCompare(b, undefined, { numeric: true }) : a - b;
        return down ? -order : order;
      });
      body.append(...rows.map(([, row]) => row));
    });
  });
}

// Every word must stand in the row; a word key=value must be the value of the column of that name.
function filterable(input, table, said) {
  const heads = [...table.tHead.rows[0].cells];
  const columns = new Map();
  heads.forEach((head, i) => columns.set(head.textContent.trim().toLowerCase(), i).set(head.dataset.key, i));
  const total = table.tBodies[0].rows.length;
  const same = (a, b) => a === b || (a !== "" && b !== "" && Number(a) === Number(b));
  const has = (row, word) => {
    const [key, ...rest] = word.split("=");
    if (rest.length && columns.has(key)) {
      const cell = row.cells[columns.get(key)].textContent.trim().toLowerCase();
      return rest.join("=").split(",").some((asked) => same(cell, asked) || cell.split(" ").includes(asked));
    }
    return row.textContent.toLowerCase().includes(word);
  };
  const narrow = () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of table.tBodies[0].rows) {
      row.hidden = !words.every((word) => has(row, word));
      shown += !row.hidden;
    }
    said.textContent = words.length ? `${shown} of ${total} points` : "";
  };
  input.addEventListener("input", narrow);
}

// A map of layers says the density below the mouse.
function readable(map) {
  const rows = JSON.parse(map.dataset.densities);
  const layers = [...map.querySelectorAll("li")].map((item) => item.textContent);
  const levels = JSON.parse(map.dataset.levels);
  const image = map.querySelector("img");
  image.addEventListener("mousemove", (event) => {
    const i = Math.min(rows.length - 1, Math.floor((event.offsetY / image.clientHeight) * rows.length));
    const j = Math.min(levels.length - 1, Math.floor((event.offsetX / image.clientWidth) * levels.length));
    const kept = rows[Math.max(0, i)][Math.max(0, j)];
    image.title = `${layers[i]}, level ${levels[j]}: ${kept === null ? "not known" : `${kept} % kept`}`;
  });
}

// The pictures that need no script give way to those that show values.
function enliven() {
  if (typeof Bokeh === "undefined") return;
  Bokeh.set_log_level("error");
  for (const data of document.querySelectorAll("script.chart")) {
    const item = JSON.parse(data.textContent);
    const place = document.getElementById(item.target_id);
    place.parentElement.hidden = false;
    place.parentElement.previousElementSibling.hidden = true;
    Bokeh.embed.embed_item(item);
  }
}

document.querySelectorAll("table.sortable").forEach(sortable);
const input = document.getElementById("filter");
if (input) {
  input.parentElement.hidden = false;
  filterable(input, document.getElementById("points"), document.getElementById("shown"));
}
document.querySelectorAll(".map").forEach(readable);
enliven();
