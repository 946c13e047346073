// The page of a result: its data are in elements of the page, as fullconv/page/document.py describes them.
"use strict";

const source = {
  document: async () => JSON.parse(textOf("document")),
  plane: async (name) => bytesOf(textOf(name)),
  tiles: async (tiles) => {
    const inside = tiles.folder ? {} : JSON.parse(textOf("tiles"));
    return (level, x, y) => tiles.folder ? `${tiles.folder}/${level}/${x}_${y}.jpg` : inside[`${level}/${x}_${y}`];
  },
};

// Returns what OpenSeadragon needs to show the tiles, or a white image if there are none.
async function tileSource({ width, height, tiles }) {
  if (!tiles) return whiteImage({ width, height });
  const url = await source.tiles(tiles);
  const maxLevel = Math.ceil(Math.log2(Math.max(tiles.width, tiles.height)));
  return {
    width: tiles.width, height: tiles.height, tileSize: tiles.size, tileOverlap: tiles.overlap,
    minLevel: Math.min(8, maxLevel), maxLevel, getTileUrl: url,
  };
}

async function main() {
  const data = await source.document(), { picture, values } = data;
  const names = ["top", "value", ...Array(values.planes).keys()];
  const cells = new Cells(data, await Promise.all(names.map(source.plane)));
  showHead(data);
  showRemarks(data);
  showAverages(data);
  showAbout(data);
  new Page(cells, data.colour_maps, new View(picture, await tileSource(picture)));
}

main().catch((error) => {
  byId("name").textContent = `This page cannot be shown: ${error.message}`;
  throw error;
});
