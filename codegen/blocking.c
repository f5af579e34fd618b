/* blocking.c - how a contraction is cut.
 *
 * Comes in: the sizes of a product and the facts of a level. Goes out: the register tile and the loop order of least cost. Every candidate is
 * priced in cycles by the same few facts, of vector registers or of tiles; nothing asks for the machine the compiler runs on, so the same input makes the same program.
 *
 *   a step     of a tile (one value of the summed axis) takes as long as its products, its loads or the latency of an addition
 *   the rest   rows that do not fill a tile make a smaller one, priced like any other
 *   traffic    a factor is read again for every pass of the other: from the first level cache for nothing, from the second for
 *              little, from behind it for more. Which of the two passes is the loop order. Panels are read for the first time from
 *              behind the caches: where several tiles pass over the same ones, those that come next are asked for (micro.c). */
#include "codegen/blocking.h"
#include <math.h>

enum { LANES = 16, LINE = 64, MOST_COLS = 8, MOST_ROWS = 30, UNKNOWN = 64 };

/* What is assumed of one core. */
typedef struct Core {
    double tile;          /* cycles to begin and end a tile */
    double near_line;     /* cycles a line costs beside the arithmetic: from the second level cache, */
    double pass_line;     /* from there, when it passes by what the first one keeps, */
    double even_line;     /* the same of rows that are multiples of four lines apart: they come from one of its banks, */
    double move_line;     /* and as far as to move a line takes more than this part of the arithmetic: */
    double hides;
    double far_line;      /* from behind it, */
    double lost_line;     /* when it was there already and is fetched once more, */
    double first_line;    /* and of panels that are read for the first time, less what the arithmetic hides */
    double part;          /* when results fill a line part by part, with others in between, */
    double far_part;      /* and when there are more of them than the second cache holds: of a row part by part */
    double first, second; /* bytes of a cache that one factor may count on, */
    double stays;         /* of the first, when the other factor is kept out of it; 0: it is not */
    double (*step)(const Target *t, const Product *p, const Blocking *b,
                   int64_t rows); /* cycles of a step of a tile, or of so many rows of one */
} Core;

static double most(double a, double b) { return a > b ? a : b; }

/* ---- vector registers ---- */
static double vector_step(const Target *t, const Product *p, const Blocking *b, int64_t rows)
{
    enum { UNPACK = 2 }; /* instructions for a vector of codes */
    static const struct {
        double products, loads; /* vectors multiplied and added, vectors loaded, in a cycle */
        double latency;         /* of an addition, in cycles */
        int64_t addresses;      /* rows that have a register for their address */
    } unit = {2, 1.74, 4, 14};
    double panels = b->cols * (LANES / t->lanes), products = (double)rows * panels; /* in registers */
    if (p->codes) products += UNPACK * panels;
    double cycles = most(products / unit.products, ((double)rows + panels) / unit.loads);
    cycles = most(cycles, unit.latency);
    return rows > unit.addresses ? cycles + 0.5 * (double)(rows - unit.addresses) : cycles;
}

static const Core vectors = {.tile = 20,
                             .near_line = 0.5,
                             .far_line = 2,
                             .lost_line = 0.06,
                             .first = 24 << 10,
                             .second = 768 << 10,
                             .step = vector_step};

/* Rows so many lines apart that they share few sets of a cache: more than it has ways throw each other out at every step. */
static bool is_crowded(const Product *p, int rows)
{
    enum { SETS = 64, WAYS = 8 };
    int sets = SETS;
    for (int64_t lines = p->pitch / LINE; p->pitch && p->pitch % LINE == 0 && lines % 2 == 0 && sets > 1; lines /= 2)
        sets /= 2;
    return (rows + sets - 1) / sets > WAYS;
}

static double line_cycles(const Core *core, double held) /* of a factor of which so many bytes are read before one is read again */
{
    return held <= core->first ? 0 : held <= core->second ? core->near_line : core->far_line;
}

/* Of n pieces, how many are a block, if these are as few as can be, alike, and of so many bytes at most; 0: each would be one. */
static int pieces_of_block(int64_t n, double bytes, double limit)
{
    int64_t blocks = 2;
    while (blocks < n && (n % blocks || bytes / (double)blocks > limit)) blocks++;
    return blocks < n ? (int)(n / blocks) : 0;
}

/* Where all rows are more than a cache holds, blocks of them that it does hold, and that divide them. */
static int tiles_of_block(const Core *core, const Product *p, const Blocking *b)
{
    if (!b->panels_first || b->lines > 1 || p->times != 1 || p->rows < 0 || p->rows % b->rows || (double)p->image <= core->second)
        return 0;
    return pieces_of_block(p->rows / b->rows, (double)p->image, core->second);
}

/* Where all panels come from behind the caches, blocks of them that stay there beside the next ones, which are asked for. */
static int groups_of_block(const Product *p, const Blocking *b)
{
    int64_t bytes = p->steps * p->panels * p->right;
    if (b->panels_first || p->panels < 0 || p->steps < 0 || bytes < PANELS_FAR) return 0;
    return pieces_of_block(p->panels / b->cols, (double)bytes, PANELS_NEXT / 2);
}

/* For panels that are read for the first time. Where whole tiles pass over the same ones, all their arithmetic hides it: they ask for what comes next. */
static double waits(const Core *core, double bytes, double lines, double arithmetic)
{
    return bytes >= PANELS_FAR ? most(lines * core->first_line - arithmetic, 0) : 0;
}

/* How the tiles walk. Lines are those of a step. */
typedef struct Walk {
    double passes, groups;           /* tiles down the rows, across the panels */
    double row_blocks, blocks;       /* of rows that stay while all panels pass, of panels while all rows do */
    double slice, image;             /* bytes of the rows of a tile, of all */
    double group, panels;            /* of the panels of a tile, of all */
    double image_lines, panel_lines; /* of all rows, of all panels */
} Walk;

static Walk walk_of(const Product *p, const Blocking *b, int64_t rows, double times, double passes)
{
    double steps = (double)(p->steps < 0 ? UNKNOWN : p->steps), tile = b->rows * b->lines;
    Walk w = {.passes = passes,
              .groups = (double)(p->panels < 0 ? MOST_COLS : p->panels) / b->cols,
              .row_blocks = 1,
              .blocks = 1};
    if (b->block && b->panels_first) w.row_blocks = passes / b->block;
    if (b->block && !b->panels_first) w.blocks = w.groups / b->block;
    w.image = p->image < 0 ? times * (double)rows * steps * p->left : (double)p->image;
    w.slice = w.image * tile / ((double)rows * times);
    w.group = steps * b->cols * p->right, w.panels = w.group * w.groups;
    w.image_lines = times * (double)rows * p->left / LINE, w.panel_lines = w.groups * b->cols * p->right / LINE;
    return w;
}

/* What the next tile reads again are its panels if these are first, else its rows. Of so many bytes, the part that the first cache loses while the
 * other factor passes: less where that may be kept out of it (llvm/amx.c). */
static double lost(const Core *core, const Product *p, const Blocking *b, double bytes)
{
    if (!core->stays || (b->panels_first && !p->once)) return bytes > core->first;
    return fmin(most(bytes / core->stays - 1, 0), 1);
}

/* So many lines of the factor that passes, `held` bytes, beside so much arithmetic. */
static double passing(const Core *core, const Product *p, const Blocking *b, double kept, double held, double lines,
                      double arithmetic)
{
    double part = lost(core, p, b, kept), all = lines * line_cycles(core, held);
    if (!core->stays || held > core->second) return all;
    bool even = b->panels_first && p->pitch % (4 * LINE) == 0;
    double by = lines * (even ? core->even_line : core->pass_line) +
                most(lines * core->move_line - core->hides * arithmetic, 0);
    return part * all + (1 - part) * by;
}

static double lines_again(const Core *core, const Product *p, const Blocking *b, const Walk *w, double arithmetic)
{
    double rows = (w->groups - 1) * w->image_lines, panels = (w->passes - w->row_blocks) * w->panel_lines;
    if (b->panels_first)
        return panels * lost(core, p, b, w->group) * line_cycles(core, w->group) +
               passing(core, p, b, w->group, w->image / w->row_blocks, rows, arithmetic);
    double apart = (w->blocks - 1) * w->image_lines; /* of a row from one block to the next */
    return passing(core, p, b, w->slice, w->panels / w->blocks, panels, arithmetic) +
           (rows - apart) * lost(core, p, b, w->slice) * line_cycles(core, w->slice) +
           apart * line_cycles(core, w->image);
}

/* Results that fill a line, or a row, part by part with others in between. */
static double parts_of_results(const Core *core, const Product *p, const Blocking *b, const Walk *w, double rows)
{
    double runs = b->panels_first ? w->groups : w->blocks, part = w->groups / runs * b->cols * LANES * p->result;
    if (runs <= 1) return 0;
    return rows * runs * (rows * runs * part > core->second ? core->far_part : part < LINE ? core->part : 0);
}

/* Of all results, in cycles a step. Rows that are read for the first time cost the same in every candidate. Several threads share out the tiles
 * of the outer loops: some wait for the last. */
static double product_cycles(const Core *core, const Product *p, const Target *t, const Blocking *b, int64_t rows)
{
    int64_t all = rows * (b->lines > 1 ? p->lines : 1), tile = b->rows * b->lines, whole = all / tile,
            rest = all % tile;
    double steps = (double)(p->steps < 0 ? UNKNOWN : p->steps), times = (double)(p->times < 0 ? UNKNOWN : p->times);
    if (b->lines > 1) times /= (double)p->lines, rows = all;
    Walk w = walk_of(p, b, rows, times, times * (double)(whole + (rest > 0)));
    double cycles = (double)whole * core->step(t, p, b, tile) + (rest ? core->step(t, p, b, rest) : 0);
    if (is_crowded(p, b->rows)) cycles += (double)rows * core->lost_line;
    double arithmetic = times * w.groups * cycles;
    cycles = arithmetic + w.passes * w.groups * core->tile / steps;
    bool asks = (b->panels_first || w.blocks > 1) && times * (double)whole > 1;
    cycles += waits(core, w.panels, w.row_blocks * w.panel_lines, asks ? cycles : cycles / w.passes);
    cycles += lines_again(core, p, b, &w, arithmetic);
    cycles += parts_of_results(core, p, b, &w, times * (double)rows) / steps;
    double items = b->panels_first || !rest ? w.passes * w.groups : w.passes;
    return p->rows < 0 ? cycles : cycles * (1 + 0.5 / items);
}

static bool divides_panels(const Product *p, int cols) { return p->panels > 0 ? p->panels % cols == 0 : cols <= 2; }

Blocking blocking_vectors(const Product *p, const Target *t)
{
    enum { ANY_ROWS = 24, SAFE_ROWS = 8 }; /* unknown rows: a number that wastes little; a tile that few rows fill */
    Blocking best = {p->tile > 0 ? (int)p->tile : 1, 1, 1, false, 0};
    int64_t rows = p->rows < 0 ? ANY_ROWS : p->rows;
    double least = INFINITY;
    for (int i = 0; i < MOST_COLS * MOST_ROWS * 2; i++) {
        Blocking b = {i / 2 % MOST_ROWS + 1, i / 2 / MOST_ROWS + 1, 1, i % 2, 0};
        if (p->tile > 0 ? b.rows != p->tile : b.rows > rows) continue;
        if (p->tile && b.panels_first) continue;
        if (!divides_panels(p, b.cols) || !target_tile_fits(t, b.rows, b.cols, p->codes, p->how)) continue;
        bool exact = p->rows < 0 && b.rows > 1 && p->unit % b.rows == 0;
        if (p->rows < 0 && b.rows > SAFE_ROWS && !exact) continue;
        int64_t all = exact ? (ANY_ROWS + b.rows - 1) / b.rows * b.rows : rows;
        double cost = product_cycles(&vectors, p, t, &b, all) / (double)all;
        if (cost < least) least = cost, best = b;
    }
    return best;
}

/* ---- tile registers: sums of 16 rows x 16 lanes in each of four ---- */
enum { TILE_ROWS = 16, TILE_WORDS = 16, TILE_SUMS = 4, FEW = 4, CODED_COLS = 2 };

/* A product of tiles takes a little less than a cycle for each row, and its sums are there after 52; loads are half hidden. Rows that are fewer
 * than those of a tile are summed with vectors. */
static double tile_step(const Target *t, const Product *p, const Blocking *b, int64_t rows)
{
    (void)t;
    int64_t width = b->lines > 1 ? b->rows : rows, run, all;
    double tiles = tiles_for(rows / width, width, p->apart, &run);
    tiles_for(b->lines, b->rows, p->apart, &all);
    int tile = tile_rows_for(all);
    if (run < tile) return (double)rows * 14 * b->cols / TILE_WORDS;
    return (most((4 + 0.8 * tile) * tiles * b->cols, 52) + 4 * (tiles + b->cols)) / TILE_WORDS;
}

/* Arithmetic this fast hides little of what memory takes. */
static const Core tiles = {.tile = 100,
                           .near_line = 1,
                           .pass_line = 0.15,
                           .even_line = 0.5,
                           .move_line = 2,
                           .hides = 0.8,
                           .far_line = 6,
                           .first_line = 6,
                           .part = 4,
                           .far_part = 8,
                           .first = 16 << 10,
                           .stays = 32 << 10,
                           .second = 1536 << 10,
                           .step = tile_step};

static bool holds_tiles(const Product *p, const Blocking *b)
{
    int64_t run;
    if (b->lines > 1 && b->rows != p->rows) return false;
    if (p->rows < 0 && b->rows % tile_rows_for(b->rows)) return false; /* they may be missing */
    return tiles_for(b->lines, b->rows, p->apart, &run) * b->cols <= TILE_SUMS && divides_panels(p, b->cols);
}

/* Codes in blocks: the panels of a call are unpacked once for all its rows, block after block; their sums are in memory. */
static Blocking blocking_codes(const Product *p)
{
    enum { MOST = 8 * TILE_ROWS };
    int64_t calls = (p->rows + MOST - 1) / MOST;
    Blocking b = {MOST, 1, 1, true, 0};
    if (p->rows > 0) b.rows = (int)((p->rows + calls - 1) / calls);
    while (b.cols < CODED_COLS && divides_panels(p, 2 * b.cols)) b.cols *= 2;
    b.block = tiles_of_block(&tiles, p, &b);
    return b;
}

Blocking blocking_tiles(const Product *p)
{
    if (p->codes) return blocking_codes(p);
    enum { TILES_ROWS = TILE_ROWS * TILE_SUMS, ORDERS = 3 }; /* rows first, panels first, blocks of panels first */
    Blocking best = {0, 0, 1, false, 0};
    bool few = p->rows < 0 && p->least < FEW; /* rows may be few: no call should waste much */
    int64_t rows = few ? UNKNOWN : p->rows < 0 ? p->least : p->rows, most_rows = few ? 2 * TILE_ROWS : rows;
    int most_lines = p->lines <= 1 ? 1 : p->lines < TILE_ROWS ? (int)p->lines : TILE_ROWS;
    double least = INFINITY;
    for (int i = 0; i < TILES_ROWS * TILE_SUMS * most_lines * ORDERS; i++) {
        Blocking b = {i / ORDERS % TILES_ROWS + 1, i / ORDERS / TILES_ROWS % TILE_SUMS + 1,
                      i / ORDERS / TILES_ROWS / TILE_SUMS + 1, i % ORDERS == 1, 0};
        if (b.rows > most_rows || b.lines * b.rows > TILES_ROWS || !holds_tiles(p, &b)) continue;
        b.block = i % ORDERS == 2 ? groups_of_block(p, &b) : tiles_of_block(&tiles, p, &b);
        double cost = product_cycles(&tiles, p, NULL, &b, rows);
        if (cost < least) least = cost, best = b;
    }
    return best;
}
