// The cells of a result: their places, their values, the regions that they form, and a picture of them.
//
// Nothing here knows the page. Numbers that are called stored are whole numbers from 0 to the largest of the bits;
// fullconv/page/document.py describes the data.
"use strict";

const TOP = -1; // in place of a class: the class with the highest value in each cell
const PALETTE = ["#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd",
  "#8c564b", "#e377c2", "#bcbd22", "#17becf", "#f5d000"];
const OTHERS = "#7f7f7f";

// Returns numbers of 8, 16 or 32 bits in the order of the processor, which is the file's on every usual machine.
const numbersOf = (bits, bytes) => bits === 8 ? bytes : new (bits === 16 ? Uint16Array : Uint32Array)(bytes.buffer);

class Cells {
  // `top`, `value` and `of` are the bytes of the planes: the top classes, their values, and the values of each class.
  constructor({ grid, values }, [top, value, ...of]) {
    Object.assign(this, values, { x: grid.cols, y: grid.rows, step: grid.step });
    this.top = numbersOf(this.top_bits, top);
    this.value = numbersOf(this.bits, value);
    this.ofClass = of.map((bytes) => numbersOf(this.bits, bytes));
    this.cols = this.x.starts.length;
    this.rows = this.y.starts.length;
    this.max = 2 ** this.bits - 1;
    this.none = 2 ** this.top_bits - 1;
    this.hasColours = this.classes.some(({ colour }) => colour);
  }

  valuesOf(cls) { return cls === TOP ? this.value : this.ofClass[cls]; }

  isScored(cell) { return this.top[cell] !== this.none; }

  number(stored) { return this.low + (this.high - this.low) * stored / this.max; }

  stored(number) { return Math.ceil((number - this.low) / (this.high - this.low) * this.max - 1e-6); }

  text(number) { return this.kind === "probability" ? number.toFixed(this.bits === 8 ? 2 : 3) : number.toPrecision(4); }

  // Returns the cell at a position in pixels of the image, or null.
  at(x, y) {
    const col = lastAtMost(this.x.edges, x), row = lastAtMost(this.y.edges, y);
    return col < 0 || row < 0 || col >= this.cols || row >= this.rows ? null : row * this.cols + col;
  }

  // Returns the windows of some cells as a box in pixels of the image.
  box(left, top, right = left, bottom = top) {
    const x = this.x.starts[left], y = this.y.starts[top];
    return { x, y, width: this.x.ends[right] - x, height: this.y.ends[bottom] - y };
  }

  boxOf(cell) { return this.box(cell % this.cols, Math.floor(cell / this.cols)); }

  // Returns [class, stored value] of a cell's highest values, with its top class first.
  best(cell, most) {
    const top = this.top[cell];
    const others = this.ofClass.map((values, cls) => [cls, values[cell]]).filter(([cls]) => cls !== top);
    return [[top, this.value[cell]], ...others.sort((a, b) => b[1] - a[1])].slice(0, most);
  }
}

// Returns the last position of a sorted list whose number is at most `wanted`; -1 if there is none.
function lastAtMost(numbers, wanted) {
  let from = 0, to = numbers.length;
  while (from < to) {
    const middle = (from + to) >> 1;
    if (numbers[middle] <= wanted) from = middle + 1; else to = middle;
  }
  return from - 1;
}

// Returns the colour of each class in the view of top classes: the model's own, or one of the palette by frequency.
// Unless it is wanted, the most common class of a model without colours has none: it is often the background.
function coloursOf(cells, isCommonWanted) {
  const order = [...cells.classes.keys()].filter((cls) => cells.classes[cls].cells)
    .sort((a, b) => cells.classes[b].cells - cells.classes[a].cells);
  const unpainted = isCommonWanted || cells.hasColours ? null : order[0];
  const others = order.filter((cls) => cls !== unpainted);
  return new Map(order.map((cls) => {
    const own = cells.classes[cls].colour;
    return [cls, own || (cls === unpainted ? null : PALETTE[others.indexOf(cls)] ?? OTHERS)];
  }));
}

// Returns the regions of touching cells at or above a stored value, the highest peak first. In the view of top classes
// the cells of a region have the same class, and classes that are not painted have no region.
function regionsOf(cells, cls, values, least, colours) {
  const { cols, rows, top, none } = cells;
  const seen = new Uint8Array(cols * rows), regions = [], stack = [];
  const kind = (cell) => values[cell] < least || top[cell] === none ? none : cls === TOP ? top[cell] : cls;
  const painted = new Set([...colours].filter(([, colour]) => colour).map(([key]) => key));
  for (let first = 0; first < seen.length; first++) {
    const wanted = seen[first] ? none : kind(first);
    if (wanted === none || (cls === TOP && !painted.has(wanted))) continue;
    const region = { cls: wanted, peak: first, cells: 0, left: cols, right: 0, top: rows, bottom: 0 };
    seen[first] = 1;
    stack.push(first);
    while (stack.length) {
      const cell = stack.pop(), col = cell % cols, row = (cell - col) / cols;
      region.cells++;
      if (values[cell] > values[region.peak]) region.peak = cell;
      region.left = Math.min(region.left, col); region.right = Math.max(region.right, col);
      region.top = Math.min(region.top, row); region.bottom = Math.max(region.bottom, row);
      const visit = (next) => { if (!seen[next] && kind(next) === wanted) { seen[next] = 1; stack.push(next); } };
      if (col > 0) visit(cell - 1);
      if (col < cols - 1) visit(cell + 1);
      if (row > 0) visit(cell - cols);
      if (row < rows - 1) visit(cell + cols);
    }
    regions.push(region);
  }
  return regions.sort((a, b) => values[b.peak] - values[a.peak] || b.cells - a.cells);
}

// Returns a colour "#rrggbb" as a number whose bytes in memory are red, green, blue, opaque.
const packed = (red, green, blue) => (255 << 24 | blue << 16 | green << 8 | red) >>> 0;
const packedHex = (hex) => packed(...[1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));

// Paints a picture with a pixel for each cell: clear where a cell was not scored or its value is below the least.
function paintCells(canvas, cells, cls, values, least, colours, map) {
  const pixels = new ImageData(cells.cols, cells.rows), words = new Uint32Array(pixels.data.buffer);
  const ofClass = new Uint32Array(cells.classes.length);
  for (const [key, colour] of colours) ofClass[key] = colour ? packedHex(colour) : 0;
  const ofLevel = Uint32Array.from({ length: 256 }, (_, level) => packed(...map.subarray(3 * level, 3 * level + 3)));
  for (let cell = 0; cell < words.length; cell++) {
    if (values[cell] < least || cells.top[cell] === cells.none) continue;
    words[cell] = cls === TOP ? ofClass[cells.top[cell]] : ofLevel[Math.round(values[cell] / cells.max * 255)];
  }
  canvas.width = cells.cols;
  canvas.height = cells.rows;
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

// Returns the runs [from, to) of cells of the same size: all, or all but the last.
function runs(edges) {
  const count = edges.length - 1, first = edges[1] - edges[0], last = edges[count] - edges[count - 1];
  return count > 1 && Math.abs(first - last) > 1e-6 ? [[0, count - 1], [count - 1, count]] : [[0, count]];
}
