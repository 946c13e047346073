// The viewer's form: the image, the model and the options of a request.
"use strict";

const REGION = /^\s*(\d{1,9})\s*,\s*(\d{1,9})\s*,\s*(\d{1,9})\s*,\s*(\d{1,9})\s*$/;
const AREAS = /\.(geo)?json$/i; // the names of masks that are areas; other masks are images
const MIN_DRAG = 4; // pixels of the screen; a shorter movement of the mouse is a click, which removes the region

// The region: x, y, width and height as text, and drawn on the preview with the mouse or a pen.
class RegionField {
  constructor() {
    this.start = null;
    const frame = byId("preview-frame");
    frame.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || event.pointerType === "touch") return; // by touch, the page is scrolled
      event.preventDefault();
      frame.setPointerCapture(event.pointerId);
      this.start = event;
    });
    for (const name of ["pointermove", "pointerup"]) frame.addEventListener(name, (event) => this.draw(event));
    for (const name of ["pointerup", "pointercancel"]) frame.addEventListener(name, () => { this.start = null; });
    byId("region").addEventListener("input", () => this.show());
  }

  get text() { return byId("region").value.trim(); }

  set text(text) {
    byId("region").value = text;
    this.show();
  }

  // Takes the rectangle between the start of the drag and the mouse.
  draw({ clientX, clientY }) {
    if (!this.start) return;
    const { naturalWidth, naturalHeight } = byId("preview"), box = byId("preview").getBoundingClientRect();
    const within = (place, size) => Math.round(Math.min(Math.max(place, 0), 1) * size);
    const ends = (from, to, first, length, size) => [from, to]
      .map((place) => within((place - first) / length, size)).sort((a, b) => a - b);
    const [left, right] = ends(this.start.clientX, clientX, box.left, box.width, naturalWidth);
    const [top, bottom] = ends(this.start.clientY, clientY, box.top, box.height, naturalHeight);
    const moved = Math.max(Math.abs(clientX - this.start.clientX), Math.abs(clientY - this.start.clientY));
    const isRegion = moved >= MIN_DRAG && right > left && bottom > top;
    this.text = isRegion ? [left, top, right - left, bottom - top].join(", ") : "";
  }

  // Shows the region on the preview.
  show() {
    const match = REGION.exec(byId("region").value), box = byId("region-box");
    const { naturalWidth: width, naturalHeight: height } = byId("preview");
    box.hidden = !match;
    if (!match) return;
    const [x, y, across, down] = match.slice(1).map(Number);
    const sides = { left: x / width, top: y / height, width: across / width, height: down / height };
    for (const [side, share] of Object.entries(sides)) box.style[side] = `${100 * share}%`;
  }
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
    this.region = new RegionField();
    byId("file").addEventListener("change", () => { this.taken = this.take(byId("file").files[0]); });
    byId("model").addEventListener("change", () => this.guarded(() => this.showModel()));
    byId("cancel").addEventListener("click", () => this.run?.cancel());
    byId("request").addEventListener("submit", (event) => {
      event.preventDefault();
      this.guarded(() => this.score({ isPlanOnly: event.submitter === byId("show-plan") }));
    });
    byId("mask").addEventListener("input", () => this.showMask());
    this.showMask();
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

  // Shows the field of the mask's file if the mask is one.
  showMask() {
    const isFile = byId("mask").value === "file";
    byId("mask-field").hidden = !isFile;
    byId("mask-file").required = isFile;
  }

  // Takes a file, and shows it if the browser can.
  async take(file) {
    if (this.url) URL.revokeObjectURL(this.url);
    Object.assign(this, { file, url: file ? URL.createObjectURL(file) : null, picture: null });
    const preview = byId("preview");
    byId("preview-frame").hidden = true;
    this.region.text = "";
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
    byId("preview-frame").hidden = false;
  }

  get mask() { return byId("mask").value === "file" ? byId("mask-file").files[0] : null; }

  query() {
    const [model, version] = JSON.parse(byId("model").value), { mask } = this;
    const query = new URLSearchParams({ model, version, name: this.file.name, mode: byId("mode").value });
    for (const name of ["stride", "region", "scales", "mpp"]) {
      if (byId(name).value.trim()) query.set(name, byId(name).value.trim());
    }
    if (byId("flip").checked) query.set("flip", "true");
    if (mask) {
      query.set("mask", AREAS.test(mask.name) ? "areas" : "image");
      query.set("mask_bytes", mask.size);
    } else if (byId("mask").value) {
      query.set("mask", byId("mask").value);
    }
    for (const { value } of byId("planes").selectedOptions) query.append("plane", value);
    return query;
  }

  async score({ isPlanOnly }) {
    const { file, limits, mask } = this;
    if (file.size > limits.file_bytes) {
      const most = bytesText(limits.file_bytes);
      throw new Refusal(`image: expected a file of at most ${most}, got ${bytesText(file.size)}`);
    }
    if (mask?.size === 0) throw new Refusal("mask: expected GeoJSON or an image, got an empty file");
    await this.taken;
    this.run?.remove();
    byId("plan").replaceChildren();
    const run = this.run = new Run(this.picture, (...names) => this.describe(...names)), query = this.query();
    if (isPlanOnly) query.set("plan_only", "true");
    this.setRunning(true);
    try {
      await run.score(file, mask, query);
    } catch (error) {
      showState(error.name === "AbortError" ? "Cancelled." : "Not finished.", { tiles: 0, of: 1 });
      byId("run").hidden = error.name !== "AbortError" && !run.page;
      throw error;
    } finally {
      this.setRunning(false);
    }
  }

  setRunning(isRunning) {
    for (const name of ["score", "show-plan"]) byId(name).disabled = isRunning;
    byId("cancel").disabled = !isRunning;
  }
}

new Form();
