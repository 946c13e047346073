// The image in OpenSeadragon, and over it a canvas with the scores.
//
// Nothing here knows where the data come from: result.js takes them from the page, live.js from a server. The cells are
// in cells.js, the lists and menus beside the image in panel.js.
"use strict";

const MAX_REGIONS = 50;
const SHOWN_SCORES = 5;
const MARGIN = 1.5; // around a region that is shown, in lengths of its longer side
const HINT = "Point at a cell, or move with the arrow keys, to see its scores.";
const WHITE = "data:image/gif;base64,R0lGODlhAQABAIAAAP///////yH5BAAAAAAALAAAAAABAAEAAAICRAEAOw==";

const textOf = (name) => byId(`data-${name}`).textContent;

function bytesOf(base64) {
  const letters = atob(base64), bytes = new Uint8Array(letters.length);
  for (let at = 0; at < bytes.length; at++) bytes[at] = letters.charCodeAt(at);
  return bytes;
}

// ---- Drawing ---------------------------------------------------------------------------------------------------

class Layer {
  constructor(view, cells) {
    Object.assign(this, { view, cells, canvas: byId("layer"), picture: document.createElement("canvas") });
    this.opacity = 0.75;
  }

  draw() {
    const { canvas } = this, ratio = window.devicePixelRatio || 1, { clientWidth, clientHeight } = canvas;
    canvas.width = Math.round(clientWidth * ratio);
    canvas.height = Math.round(clientHeight * ratio);
    const pen = canvas.getContext("2d"), { scale, x, y } = this.view.transform();
    pen.setTransform(scale * ratio, 0, 0, scale * ratio, x * ratio, y * ratio);
    this.drawCells(pen, scale * ratio);
    const cell = this.view.current();
    if (cell !== null) this.drawCell(pen, cell, 1 / scale);
  }

  drawCells(pen, scale) {
    const { x: { edges: across }, y: { edges: down } } = this.cells;
    pen.globalAlpha = this.opacity;
    pen.imageSmoothingEnabled = (across[1] - across[0]) * scale < 1;
    for (const [top, bottom] of runs(down)) {
      for (const [left, right] of runs(across)) {
        pen.drawImage(this.picture, left, top, right - left, bottom - top,
          across[left], down[top], across[right] - across[left], down[bottom] - down[top]);
      }
    }
    pen.globalAlpha = 1;
  }

  // Draws the window of a cell, and the cell itself if it is smaller; `pixel` is the width of a pixel of the screen.
  drawCell(pen, cell, pixel) {
    const { x: { edges: across }, y: { edges: down }, cols } = this.cells;
    const col = cell % cols, row = Math.floor(cell / cols), box = this.cells.boxOf(cell);
    for (const [colour, width] of [["#000", 4], ["#fff", 2]]) {
      pen.strokeStyle = colour;
      pen.lineWidth = width * pixel;
      pen.setLineDash([]);
      pen.strokeRect(across[col], down[row], across[col + 1] - across[col], down[row + 1] - down[row]);
      pen.setLineDash([6 * pixel, 4 * pixel]);
      pen.strokeRect(box.x, box.y, box.width, box.height);
    }
  }
}

// ---- The image -------------------------------------------------------------------------------------------------

// Returns what OpenSeadragon needs to show a white image in place of one that cannot be shown.
function whiteImage({ width, height }) {
  return { width, height, tileSize: Math.max(width, height), maxLevel: 0, getTileUrl: () => WHITE };
}

class View {
  constructor(picture, tiles) {
    this.picture = picture;
    this.hovered = null;
    this.selected = null;
    this.viewer = OpenSeadragon({
      element: byId("viewer"), tileSources: tiles, drawer: "canvas", showNavigationControl: false,
      keyboardNavEnabled: false, maxZoomPixelRatio: 16, visibilityRatio: 0.5, minZoomImageRatio: 0.8,
      gestureSettingsMouse: { clickToZoom: false }, gestureSettingsTouch: { dblClickToZoom: true },
      animationTime: this.isStill() ? 0 : 0.5, springStiffness: 8,
    });
  }

  isStill() { return matchMedia("(prefers-reduced-motion: reduce)").matches; }

  current() { return this.hovered ?? this.selected; }

  // Returns how pixels of the image become pixels of the screen: position · scale + (x, y).
  transform() {
    const { viewport } = this.viewer, bounds = viewport.getBoundsNoRotate(true);
    const unit = viewport.getContainerSize().x / bounds.width, scale = unit / this.picture.width;
    return { scale, x: -bounds.x * unit - this.picture.x * scale, y: -bounds.y * unit - this.picture.y * scale };
  }

  // Shows a box of the image with its surroundings.
  show(box) {
    const { width, x, y } = this.picture, { viewport } = this.viewer;
    const margin = Math.max(box.width, box.height) * MARGIN;
    const rect = new OpenSeadragon.Rect((box.x - x - margin) / width, (box.y - y - margin) / width,
      (box.width + 2 * margin) / width, (box.height + 2 * margin) / width);
    viewport.fitBoundsWithConstraints(rect, this.isStill());
  }

  // Moves the image so that a box is visible, if it is not.
  reveal(box) {
    const { viewport } = this.viewer, { width, x, y } = this.picture, bounds = viewport.getBounds();
    const centre = new OpenSeadragon.Point((box.x + box.width / 2 - x) / width, (box.y + box.height / 2 - y) / width);
    if (!bounds.containsPoint(centre)) viewport.panTo(centre, this.isStill());
  }
}

// ---- The page --------------------------------------------------------------------------------------------------

const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const ZOOMS = { "+": 1.4, "=": 1.4, "-": 1 / 1.4 };

class Page {
  constructor(cells, maps, view) {
    Object.assign(this, { cells, view, viewer: view.viewer, layer: new Layer(view, cells) });
    this.maps = Object.fromEntries(Object.entries(maps).map(([name, base64]) => [name, bytesOf(base64)]));
    prepareControls(cells, this.maps);
    for (const name of ["class", "threshold", "opacity", "map", "common"]) {
      byId(name).addEventListener("input", () => this.update());
    }
    this.listenToViewer();
    this.listenToKeys();
    this.update();
    this.showCell();
  }

  choose(cls) {
    byId("class").value = cls;
    byId("class").focus(); // the button that was pressed disappears
    this.update();
  }

  // Takes the state of the controls, and paints the cells.
  update() {
    const { cells } = this, threshold = byId("threshold").valueAsNumber;
    this.cls = Number(byId("class").value);
    this.least = cells.stored(threshold);
    byId("threshold-value").textContent = cells.text(threshold);
    byId("opacity-value").textContent = `${byId("opacity").value} %`;
    this.colours = coloursOf(cells, byId("common").checked);
    showLegend(cells, this.colours, (cls) => this.choose(cls));
    byId("scale").hidden = this.cls === TOP;
    byId("legend").hidden = this.cls !== TOP;
    byId("low").textContent = cells.text(cells.low);
    byId("high").textContent = cells.text(cells.high);
    const map = this.maps[byId("map").value];
    showBar(map);
    this.layer.opacity = byId("opacity").valueAsNumber / 100;
    paintCells(this.layer.picture, cells, this.cls, cells.valuesOf(this.cls), this.least, this.colours, map);
    this.layer.draw();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.listRegions(), 100);
  }

  listRegions() {
    const { cells, cls } = this, values = cells.valuesOf(cls);
    const regions = regionsOf(cells, cls, values, this.least, this.colours);
    const count = regions.reduce((sum, region) => sum + region.cells, 0), best = regions.slice(0, MAX_REGIONS);
    byId("regions-count").textContent = regions.length
      ? `${several(regions.length, "region")} of ${several(count, "cell")} at or above the threshold` +
        (regions.length > best.length ? `; the list has the best ${best.length}` : "")
      : "No cell is at or above the threshold.";
    const buttons = best.map((region, at) => this.regionButton(region, values, at + 1));
    byId("regions").replaceChildren(...buttons.map((button) => make("li", {}, button)));
  }

  regionButton(region, values, number) {
    const { cells } = this, box = cells.box(region.left, region.top, region.right, region.bottom);
    const place = `${several(region.cells, "cell")}, x ${box.x}, y ${box.y}`;
    const [colour, name] = this.cls === TOP
      ? [this.colours.get(region.cls), cells.classes[region.cls].label] : [undefined, `Region ${number}`];
    const line = row(colour, name, cells.text(cells.number(values[region.peak])));
    const button = make("button", { type: "button" }, line, make("small", { class: "note" }, place));
    button.addEventListener("click", () => {
      byId("regions").querySelector("[aria-current]")?.removeAttribute("aria-current");
      button.setAttribute("aria-current", "true");
      this.select(region.peak);
      this.view.show(box);
      byId("viewer").scrollIntoView({ block: "nearest" });
    });
    return button;
  }

  select(cell) {
    this.view.selected = cell;
    this.showCell();
  }

  hover(cell) {
    if (cell === this.view.hovered) return;
    this.view.hovered = cell;
    this.showCell();
  }

  // Shows the box and the scores of the cell under the pointer, or of the selected cell.
  showCell() {
    this.layer.draw();
    const { cells } = this, cell = this.view.current();
    if (cell === null) return byId("cell").replaceChildren(make("p", {}, HINT));
    const { x, y, width, height } = cells.boxOf(cell);
    const scores = !cells.isScored(cell) ? [make("p", {}, "not scored")] : cells.best(cell, SHOWN_SCORES)
      .map(([cls, stored]) => row(undefined, cells.classes[cls].label, cells.text(cells.number(stored))));
    byId("cell").replaceChildren(make("p", {}, `x ${x}, y ${y}, ${width} × ${height} pixels`), ...scores);
  }

  // Returns the cell at a position in the viewer, in pixels of the screen.
  cellAt(left, top) {
    const { scale, x, y } = this.view.transform();
    return this.cells.at((left - x) / scale, (top - y) / scale);
  }

  listenToViewer() {
    const { viewer } = this, { element } = viewer;
    for (const event of ["open", "update-viewport", "resize"]) viewer.addHandler(event, () => this.layer.draw());
    element.addEventListener("pointermove", ({ clientX, clientY, pointerType }) => {
      const { left, top } = element.getBoundingClientRect();
      if (pointerType === "mouse") this.hover(this.cellAt(clientX - left, clientY - top));
    });
    element.addEventListener("pointerleave", () => this.hover(null));
    viewer.addHandler("canvas-click", ({ quick, position }) => {
      if (quick) this.select(this.cellAt(position.x, position.y));
    });
    const zoom = (factor) => {
      viewer.viewport.zoomBy(factor, null, this.view.isStill());
      viewer.viewport.applyConstraints();
    };
    byId("zoom-in").addEventListener("click", () => zoom(1.6));
    byId("zoom-out").addEventListener("click", () => zoom(1 / 1.6));
    byId("zoom-home").addEventListener("click", () => viewer.viewport.goHome(this.view.isStill()));
    this.zoom = zoom;
  }

  listenToKeys() {
    const { canvas } = this.viewer;
    canvas.setAttribute("role", "application");
    canvas.setAttribute("aria-label", "Image with scores: arrow keys move the selected cell, plus and minus zoom");
    canvas.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.altKey || event.metaKey) return;
      if (event.key in MOVES) this.move(...MOVES[event.key], event.shiftKey ? 10 : 1);
      else if (event.key in ZOOMS) this.zoom(ZOOMS[event.key]);
      else if (event.key === "0") this.viewer.viewport.goHome(this.view.isStill());
      else if (event.key === "Escape") this.select(null);
      else return;
      event.preventDefault();
    });
  }

  // Selects the cell at a distance from the selected cell; first the cell in the middle of the view.
  move(right, down, cellsAtOnce) {
    const { cells, view } = this, size = this.viewer.viewport.getContainerSize();
    view.hovered = null;
    let cell = view.selected;
    if (cell === null) {
      cell = this.cellAt(size.x / 2, size.y / 2) ?? 0;
    } else {
      const within = (number, count) => Math.min(Math.max(number, 0), count - 1);
      const left = within(cell % cells.cols + right * cellsAtOnce, cells.cols);
      cell = within(Math.floor(cell / cells.cols) + down * cellsAtOnce, cells.rows) * cells.cols + left;
    }
    this.select(cell);
    view.reveal(cells.boxOf(cell));
  }
}
