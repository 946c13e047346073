// The panel beside the image: facts, menus and lists. Text from the data enters the page as text, never as HTML.
"use strict";

const MAX_LETTERS = 80;
const MAX_LEGEND = PALETTE.length + 2; // classes in the legend; all classes after the palette have one colour

const byId = (id) => document.getElementById(id);

// Makes an element; children are elements or text.
function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

const counted = new Intl.NumberFormat("en").format;
const several = (count, noun) => `${counted(count)} ${noun}${count === 1 ? "" : "s"}`;
const cut = (text) => text.length > MAX_LETTERS ? `${text.slice(0, MAX_LETTERS - 1)}…` : text;

function swatch(colour) {
  const element = make("span", { class: "swatch", "aria-hidden": "true" });
  element.style.background = colour ?? "none";
  return element;
}

// Makes a line with a colour, a name and a number.
function row(colour, name, number, ...more) {
  const first = colour === undefined ? [] : [swatch(colour)];
  return make("span", { class: "row" }, ...first, make("bdi", { class: "name" }, cut(name)), ...more,
    make("span", { class: "number" }, number));
}

// Makes the terms and descriptions of a list of facts.
const definitions = (facts) => Object.entries(facts)
  .flatMap(([name, text]) => [make("dt", {}, name), make("dd", {}, text)]);

function showHead({ answer, picture }) {
  const { image, grid } = answer;
  document.documentElement.style.setProperty("--shape", picture.width / picture.height);
  byId("name").textContent = image.name || "Image";
  const windows = several(grid.rows * grid.cols, "window");
  byId("summary").textContent = `${image.width} × ${image.height} pixels, ${windows}, ` +
    `model ${answer.model}/${answer.version}, ${answer.mode}`;
}

// Shows the warnings of the answer, and what the page itself has to say about the image.
function showRemarks({ answer, picture }) {
  const texts = [...answer.warnings, ...(picture.remark ? [picture.remark] : [])];
  byId("remarks").hidden = !texts.length;
  byId("remarks").querySelector("ul").replaceChildren(...texts.map((text) => make("li", {}, text)));
}

function averageText(score) {
  if (score === null) return "none";
  return score && Math.abs(score) < 1e-4 ? score.toExponential(1) : score.toFixed(4);
}

// Shows the averages over all windows, and over those of each area of the mask, with bars of one scale.
function showAverages({ answer: { average, areas = [] } }) {
  const scores = [average, ...areas].flatMap(({ top }) => top.map(({ score }) => score ?? 0));
  const low = Math.min(0, ...scores), high = Math.max(average.of === "probabilities" ? 1 : 0, ...scores);
  const bars = (top) => top.map(({ label, score }) => averageBar(label, score, low, high));
  byId("averages-of").textContent = `Mean of the ${average.of} of all windows`;
  byId("averages").replaceChildren(...bars(average.top));
  byId("areas").replaceChildren(...areas.flatMap(({ name, windows, top }) => [
    make("h3", {}, `${cut(name)}, ${several(windows, "window")}`), make("ol", {}, ...bars(top)),
  ]));
}

// Makes the line of an average, with a bar from 0 on a scale from `low` to `high`.
function averageBar(label, score, low, high) {
  const share = (number) => 100 * (number - low) / ((high - low) || 1);
  const bar = make("span"), track = make("span", { class: "track", "aria-hidden": "true" }, bar);
  bar.style.left = `${share(Math.min(0, score ?? 0))}%`;
  bar.style.width = `${share(Math.abs(score ?? 0)) - share(0)}%`;
  return make("li", {}, row(undefined, label, averageText(score)), track);
}

function parityText({ exact, top_class_agreement: share, max_abs_diff: difference }) {
  if (exact) return "dense scores are those of crops";
  if (share !== null) return `dense has the top class of crops on ${(100 * share).toFixed(1)} % of windows`;
  return difference === null ? "not known" : `dense differs from crops by ${difference.toPrecision(2)} (largest seen)`;
}

function showAbout({ answer, picture }) {
  const { image, grid } = answer, [down, across] = grid.left_out, isWhole = picture.width === image.width;
  const outside = `${several(down, "row")} and ${several(across, "column")} of pixels at the bottom and right`;
  const facts = {
    "Image": image.name || "in memory",
    "Size": `${image.width} × ${image.height} pixels (width × height)`,
    ...(isWhole && picture.height === image.height ? {} : {
      "Region": `x ${picture.x}, y ${picture.y}, ${picture.width} × ${picture.height} pixels`,
    }),
    "Model": answer.model,
    "Version": answer.version,
    "Mode": answer.mode,
    "Reason": answer.mode_reason,
    ...(answer.provider ? { "Computed": `in ${answer.precision} by ${answer.provider}` } : {}),
    "Parity": parityText(answer.parity),
    "Windows": `${grid.rows} × ${grid.cols} (rows × columns), ${counted(grid.scored)} scored`,
    "Window": `${grid.window.join(" × ")} pixels (height × width)`,
    "Stride": `${grid.stride.join(" × ")} pixels (vertical × horizontal)`,
    "Left out": down || across ? outside : "nothing",
    "Time": `${(answer.timing_ms.total / 1000).toFixed(2)} s`,
  };
  byId("about").replaceChildren(...definitions(facts));
}

// Fills the menus and sliders that depend on the data.
function prepareControls(cells, maps) {
  const classes = [...cells.classes.slice(0, cells.planes).entries()];
  const options = classes.map(([cls, { label }]) => make("option", { value: cls }, cut(label)));
  if (cells.of > 1) options.unshift(make("option", { value: TOP }, "Top class of each cell"));
  byId("class").replaceChildren(...options);
  byId("class").value = cells.of > 2 ? TOP : cells.of - 1;
  byId("map").replaceChildren(...Object.keys(maps).map((name) => make("option", {}, name)));
  const span = cells.high - cells.low;
  Object.assign(byId("threshold"), { min: cells.low, max: cells.high, step: span / 100, value: cells.low + span / 2 });
  byId("common-label").hidden = cells.hasColours;
  const remarks = [];
  if (cells.planes < cells.of) {
    remarks.push(`The menu has the ${cells.planes} of ${cells.of} classes with the highest values.`);
  }
  if (cells.step > 1) {
    remarks.push(`The grid is large: each cell shows the highest values of ${cells.step} × ${cells.step} windows.`);
  }
  byId("reduced").hidden = !remarks.length;
  byId("reduced").textContent = remarks.join(" ");
}

function showLegend(cells, colours, choose) {
  const order = [...colours].slice(0, MAX_LEGEND), more = colours.size - order.length;
  byId("legend-more").hidden = !more;
  byId("legend-more").textContent = more ? `and ${counted(more)} more` : "";
  byId("legend").querySelector("ul").replaceChildren(...order.map(([cls, colour]) => {
    const { label, cells: count } = cells.classes[cls];
    const line = row(colour, label, counted(count), ...(colour ? [] : [make("small", {}, "not painted")]));
    if (cls >= cells.planes) return make("li", { class: "plain" }, line);
    const button = make("button", { type: "button", title: `Show ${cut(label)}` }, line);
    button.addEventListener("click", () => choose(cls));
    return make("li", {}, button);
  }));
}

function showBar(map) {
  const pixels = new ImageData(256, 1);
  for (let at = 0; at < 256; at++) pixels.data.set([...map.subarray(3 * at, 3 * at + 3), 255], 4 * at);
  byId("bar").getContext("2d").putImageData(pixels, 0, 0);
}
