// The viewer of a server: sends an image and options to the server, and shows its answer as it arrives.
//
// live_form.js takes the image and the options. service/rest/viewer.py describes the requests and the answer. Text of
// the server enters the page as text only.
"use strict";

const UPDATE_MS = 300; // between two pictures of the cells

let token = ""; // kept here only

// An error that the page shows as it is.
class Refusal extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

// Sends a request; returns the response, or throws a Refusal with the one line of the server.
async function ask(path, options = {}) {
  const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  const response = await fetch(path, { ...options, headers, cache: "no-store" });
  if (response.ok) return response;
  const { error } = await response.json().catch(() => ({}));
  throw new Refusal(error ?? `The server answered with status ${response.status}.`, response.status);
}

const askJson = async (path) => (await ask(path)).json();

// Yields the documents of an answer, one from each line.
async function* linesOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let parts = [];
  for (let { done, value } = await reader.read(); !done; { done, value } = await reader.read()) {
    const lines = value.split("\n");
    while (lines.length > 1) {
      yield JSON.parse(parts.join("") + lines.shift());
      parts = [];
    }
    parts.push(lines[0]);
  }
}

function bytesText(bytes) {
  const units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
  const unit = Math.min(Math.floor(Math.log2(Math.max(bytes, 1)) / 10), units.length - 1);
  return `${Number((bytes / 1024 ** unit).toPrecision(3))} ${units[unit]}`;
}

function costText(number) {
  const units = ["", " thousand", " million", " billion", " trillion"];
  const unit = Math.min(Math.floor(Math.log10(Math.max(number, 1)) / 3), units.length - 1);
  return `${(number / 1000 ** unit).toPrecision(3)}${units[unit]}`;
}

// ---- What is going on ------------------------------------------------------------------------------------------

function showError(text) {
  byId("error").hidden = !text;
  byId("error").textContent = text;
}

const showProgress = (progress) => showState(`${counted(progress.tiles)} of ${several(progress.of, "tile")}`, progress);

// Shows what is going on; `progress` has the finished tiles and the number of tiles.
function showState(text, progress) {
  byId("run").hidden = false;
  byId("state").textContent = text;
  if (progress) Object.assign(byId("progress"), { max: progress.of, value: progress.tiles });
  else byId("progress").removeAttribute("value");
}

// ---- The answer in the form of the page of a result ------------------------------------------------------------

// Returns what `--json` of fullconv-score prints, as far as the page shows it.
function answerOf({ image, grid, parity, timing, areas, ...response }) {
  const pair = ({ height, width } = {}) => [height ?? 0, width ?? 0];
  const { average, classes } = response;
  const named = (values) => (at) => ({ label: classes[at].label, score: values[at] });
  const highest = (values) => [...values.keys()].sort((a, b) => values[b] - values[a]).slice(0, average.top.length);
  return {
    ...response, image, timing_ms: { total: timing?.total_ms ?? 0 },
    grid: {
      rows: grid.rows, cols: grid.cols, scored: response.scored_cells,
      stride: pair(grid.stride), window: pair(grid.window), left_out: pair(grid.left_out),
    },
    average: { of: average.of === "AVERAGE_OF_PROBABILITIES" ? "probabilities" : "scores", top: average.top.map(named(average.values)) },
    areas: areas.map(({ name, cells, values }) => ({ name, windows: cells, top: highest(values).map(named(values)) })),
    parity: { ...parity, top_class_agreement: parity.agreement_high ? parity.top_class_agreement : null },
  };
}

// Returns how many windows there are; of a plan alone, how many of them a mask or a region leaves.
function windowsText({ grid, scored_cells: scored }) {
  const { rows, cols, window, stride } = grid, isPart = scored && scored < rows * cols;
  return `${rows} × ${cols} (rows × columns) of ${window.height} × ${window.width} pixels, ` +
    `${stride.height} pixels apart${isPart ? `; ${counted(scored)} inside the mask` : ""}`;
}

function showPlan({ plan, image, ...response }) {
  const tiles = plan.views.reduce((sum, view) => sum + view.tiles, 0), [{ tile, flip }] = plan.views;
  const sizes = plan.views.map(({ image: { height, width } }) => `${width} × ${height}`);
  const isScaled = sizes.length > 1 || sizes[0] !== `${image.width} × ${image.height}`;
  const mpp = image.microns_per_pixel_x;
  const facts = {
    "Model": `${response.model}/${response.version}, ${plan.file}`,
    "Mode": `${response.mode}: ${response.mode_reason}`,
    "Image": `${image.width} × ${image.height} pixels (width × height)${mpp ? `, ${+mpp.toPrecision(4)} µm each` : ""}`,
    ...(isScaled ? { "Scored at": `${sizes.join(", ")} pixels (width × height)` } : {}),
    "Windows": windowsText(response),
    "Tiles": `${counted(tiles)} of at most ${tile.height} × ${tile.width} pixels (height × width)` +
      (flip ? ", those of the mirrored image included" : ""),
    "Cost": `${costText(plan.multiply_adds)} multiply-adds, ${bytesText(plan.bytes)} of memory beside the model, ` +
      `about ${+plan.decode_seconds.toPrecision(2)} s of decoding`,
  };
  byId("plan").replaceChildren(...definitions(facts));
}

// ---- One image -------------------------------------------------------------------------------------------------

// Shows one image while the server scores it.
class Run {
  // `picture` is the image as the browser shows it, or null; `describe` returns the description of a model.
  constructor(picture, describe) {
    Object.assign(this, { picture, describe, cells: null, page: null, isDone: false });
    this.controller = new AbortController();
  }

  // Sends the file, after the file of its mask if there is one, and shows the answer, which may be the plan alone.
  // Throws a Refusal, or an AbortError after `cancel`.
  async score(file, mask, query) {
    showState(`Sending ${bytesText(file.size)}; the server plans and scores when it has the whole file.`);
    const { signal } = this.controller, headers = { "Content-Type": "application/octet-stream" };
    const body = mask ? new Blob([mask, file]) : file, isPlanOnly = query.has("plan_only");
    const response = await ask(`/viewer/score?${query}`, { method: "POST", body, signal, headers });
    for await (const line of linesOf(response)) {
      if (line.error) throw new Refusal(line.error);
      if (line.plan && isPlanOnly) this.finishPlan(line.plan);
      else if (line.plan) await this.begin(line.plan, line.shown);
      if (line.progress) showProgress(line.progress);
      if (line.rows) this.addRows(line.rows);
      if (line.summary) this.finish(line.summary);
    }
    if (!this.isDone) throw new Refusal("The server ended the answer early: try again.");
  }

  cancel() { this.controller.abort(); }

  async begin(plan, shown) {
    const { spec } = await this.describe(plan.model, plan.version), { width, height } = plan.image;
    showPlan(plan);
    this.cells = new LiveCells(plan, shown, spec.colours);
    const isShown = this.picture?.width === width && this.picture?.height === height;
    const picture = {
      x: 0, y: 0, width, height,
      remark: isShown ? "" : "This browser cannot show the image; the background is white.",
    };
    this.data = { answer: answerOf(plan), picture };
    byId("result").replaceChildren(byId("view").content.cloneNode(true));
    byId("result-head").hidden = false;
    byId("about").closest("section").hidden = true;
    byId("averages-of").textContent = "They follow when all windows are scored.";
    showHead(this.data);
    showRemarks(this.data);
    const image = isShown ? { type: "image", url: this.picture.src, buildPyramid: false } : whiteImage(picture);
    this.page = new Page(this.cells, JSON.parse(textOf("colour_maps")), new View(picture, image));
    byId("threshold").addEventListener("input", () => { this.isThresholdChosen = true; });
  }

  addRows(rows) {
    if (this.cells.add(rows)) this.fitThreshold();
    this.timer ??= setTimeout(() => this.update(), UPDATE_MS);
  }

  // Shows what has arrived.
  update() {
    clearTimeout(this.timer);
    this.timer = null;
    this.page.update();
    this.page.showCell();
  }

  // Gives the threshold the range of the values that have arrived.
  fitThreshold() {
    const { low, high } = this.cells, span = high - low, { valueAsNumber } = byId("threshold");
    const value = this.isThresholdChosen ? valueAsNumber : low + span / 2;
    Object.assign(byId("threshold"), { min: low, max: high, step: span / 100, value });
  }

  finishPlan(plan) {
    this.isDone = true;
    showPlan(plan);
    byId("plan").append(...definitions(plan.warnings.length ? { "Remarks": plan.warnings.join(" ") } : {}));
    showState("Planned; nothing is scored yet.", { tiles: 0, of: 1 });
  }

  finish(summary) {
    this.isDone = true;
    this.data.answer = answerOf(summary);
    this.update();
    showRemarks(this.data);
    showAverages(this.data);
    showAbout(this.data);
    byId("about").closest("section").hidden = false;
    showState(`Done in ${(summary.timing.total_ms / 1000).toFixed(2)} s.`, { tiles: 1, of: 1 });
  }

  // Ends everything that this image has on the page.
  remove() {
    this.cancel();
    clearTimeout(this.timer);
    clearTimeout(this.page?.timer);
    this.page?.viewer.destroy();
    byId("result").replaceChildren();
    byId("result-head").hidden = true;
  }
}
