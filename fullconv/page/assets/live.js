// The viewer of a server: takes an image and options, sends them to the server, and shows its answer as it arrives.
//
// service/rest/viewer.py describes the requests and the answer. Text of the server enters the page as text only.
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

// ---- The answer in the form of the page of a result ------------------------------------------------------------

// Returns what `--json` of fullconv-score prints, as far as the page shows it.
function answerOf({ image, grid, parity, timing, ...response }) {
  const pair = ({ height, width } = {}) => [height ?? 0, width ?? 0];
  const { average, classes } = response;
  const top = average.top.map((at) => ({ label: classes[at].label, score: average.values[at] }));
  return {
    ...response, image, timing_ms: { total: timing?.total_ms ?? 0 },
    grid: {
      rows: grid.rows, cols: grid.cols, scored: response.scored_cells,
      stride: pair(grid.stride), window: pair(grid.window), left_out: pair(grid.left_out),
    },
    average: { of: average.of === "AVERAGE_OF_PROBABILITIES" ? "probabilities" : "scores", top },
    areas: [],
    parity: { ...parity, top_class_agreement: parity.agreement_high ? parity.top_class_agreement : null },
  };
}

function showPlan({ plan, grid, ...response }) {
  const tiles = plan.views.reduce((sum, view) => sum + view.tiles, 0), [view] = plan.views;
  const facts = {
    "Model": `${response.model}/${response.version}, ${plan.file}`,
    "Mode": `${response.mode}: ${response.mode_reason}`,
    "Windows": `${grid.rows} × ${grid.cols} (rows × columns) of ${grid.window.height} × ${grid.window.width} pixels, ` +
      `${grid.stride.height} pixels apart`,
    "Tiles": `${counted(tiles)} of at most ${view.tile.height} × ${view.tile.width} pixels (height × width)`,
    "Cost": `${costText(plan.multiply_adds)} multiply-adds, ${bytesText(plan.bytes)} of memory beside the model`,
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

  // Sends the file and shows the answer; throws a Refusal, or an AbortError after `cancel`.
  async score(file, query) {
    showState(`Sending ${bytesText(file.size)}; the server scores when it has the whole file.`);
    const { signal } = this.controller, headers = { "Content-Type": "application/octet-stream" };
    const response = await ask(`/viewer/score?${query}`, { method: "POST", body: file, signal, headers });
    for await (const line of linesOf(response)) {
      if (line.error) throw new Refusal(line.error);
      if (line.plan) await this.begin(line.plan, line.shown);
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

// ---- The request -----------------------------------------------------------------------------------------------

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

// The form: what to score, and how.
class Form {
  constructor() {
    Object.assign(this, { run: null, file: null, url: null, picture: null, limits: {}, descriptions: new Map() });
    byId("access").addEventListener("submit", (event) => {
      event.preventDefault();
      token = byId("token").value;
      this.load();
    });
    byId("file").addEventListener("change", () => { this.taken = this.take(byId("file").files[0]); });
    byId("model").addEventListener("change", () => this.guarded(() => this.showModel()));
    byId("cancel").addEventListener("click", () => this.run?.cancel());
    byId("request").addEventListener("submit", (event) => {
      event.preventDefault();
      this.guarded(() => this.score());
    });
    this.listenToDrops();
    this.load();
  }

  listenToDrops() {
    const over = (isOver) => (event) => {
      event.preventDefault();
      byId("request").classList.toggle("over", isOver);
    };
    document.addEventListener("dragover", over(true));
    document.addEventListener("dragleave", over(false));
    document.addEventListener("drop", (event) => {
      over(false)(event);
      if (!event.dataTransfer.files.length) return;
      byId("file").files = event.dataTransfer.files;
      this.taken = this.take(event.dataTransfer.files[0]);
    });
  }

  // Does some work, and shows its error.
  async guarded(work) {
    showError("");
    try {
      await work();
    } catch (error) {
      if (error.status === 401) byId("access").hidden = false;
      if (error.name === "AbortError" || (error.status === 401 && !token)) return;
      const ended = "The server cannot be reached, or has ended the connection; it may be busy: try again.";
      showError(error instanceof Refusal ? error.message : `${ended} (${error.message})`);
    }
  }

  // Asks the server for its models and limits.
  async load() {
    await this.guarded(async () => {
      const { models, limits } = await askJson("/viewer/models");
      byId("access").hidden = true;
      byId("request").hidden = false;
      this.limits = limits;
      byId("limits").textContent = `At most ${bytesText(limits.file_bytes)}; JPEG, PNG and WebP: at most ` +
        `${counted(Math.floor(limits.image_pixels / 1e6))} megapixels. TIFF files may be larger.`;
      const order = models.sort((a, b) => a.name.localeCompare(b.name) || b.version - a.version);
      const options = order.map(({ name, version, error }) => {
        const option = make("option", { value: JSON.stringify([name, version]) }, `${cut(name)}, version ${version}`);
        option.disabled = Boolean(error);
        return option;
      });
      byId("model").replaceChildren(...options.sort((a, b) => a.disabled - b.disabled));
      if (!models.length) throw new Refusal("The server has no models.");
      await this.showModel();
    });
  }

  // Returns the description of a model, as GetModel does.
  async describe(name, version) {
    const key = JSON.stringify([name, version]);
    if (!this.descriptions.has(key)) {
      const path = `/viewer/models/${encodeURIComponent(name)}?${new URLSearchParams({ version })}`;
      this.descriptions.set(key, await askJson(path));
    }
    return this.descriptions.get(key);
  }

  // Fills the menus with what the chosen model can do.
  async showModel() {
    const { spec, labels } = await this.describe(...JSON.parse(byId("model").value));
    const modes = ["auto", "exact", ...spec.modes];
    byId("mode").replaceChildren(...modes.map((mode) => make("option", {}, mode)));
    byId("stride").value = "";
    byId("stride").placeholder = `${spec.vertical.stride} (default)`;
    const count = spec.output.classes, isMany = count > this.limits.planes;
    byId("planes-field").hidden = !isMany;
    byId("planes-note").textContent = `At most ${this.limits.planes} of ${counted(count)} classes.`;
    const names = isMany ? Array.from({ length: count }, (_, at) => labels[at] ?? String(at)) : [];
    byId("planes").replaceChildren(...names.map((label, at) => make("option", { value: at }, cut(label))));
  }

  // Takes a file, and shows it if the browser can.
  async take(file) {
    if (this.url) URL.revokeObjectURL(this.url);
    Object.assign(this, { file, url: file ? URL.createObjectURL(file) : null, picture: null });
    const preview = byId("preview");
    preview.hidden = true;
    if (!file) return;
    const picture = new Image();
    picture.src = this.url;
    try {
      await picture.decode();
    } catch {
      return;
    }
    if (picture.src !== this.url) return;
    this.picture = { src: this.url, width: picture.naturalWidth, height: picture.naturalHeight };
    preview.src = this.url;
    preview.hidden = false;
  }

  query() {
    const [model, version] = JSON.parse(byId("model").value);
    const query = new URLSearchParams({ model, version, name: this.file.name, mode: byId("mode").value });
    if (byId("stride").value) query.set("stride", byId("stride").value);
    for (const { value } of byId("planes").selectedOptions) query.append("plane", value);
    return query;
  }

  async score() {
    const { file, limits } = this;
    if (file.size > limits.file_bytes) {
      const most = bytesText(limits.file_bytes);
      throw new Refusal(`image: expected a file of at most ${most}, got ${bytesText(file.size)}`);
    }
    await this.taken;
    this.run?.remove();
    byId("plan").replaceChildren();
    const run = this.run = new Run(this.picture, (...names) => this.describe(...names));
    byId("score").disabled = true;
    byId("cancel").disabled = false;
    try {
      await run.score(file, this.query());
    } catch (error) {
      showState(error.name === "AbortError" ? "Cancelled." : "Not finished.", { tiles: 0, of: 1 });
      byId("run").hidden = error.name !== "AbortError" && !run.page;
      throw error;
    } finally {
      byId("score").disabled = false;
      byId("cancel").disabled = true;
    }
  }
}

new Form();
