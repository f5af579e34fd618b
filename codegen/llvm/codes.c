/* codes.c - sums of codes in blocks: integers inside a block, floats of blocks.
 *
 * Comes in: a matched `contract` call (micro.c) whose blocks are (steps * sum of value * code - zero * sum of values) * scale, all but values and codes
 * chosen by the first loops of the sum. Goes out: its float sums, the same ones in both ways.
 *
 *   vectors  words of a block are summed in registers
 *   tiles    some blocks at a time are unpacked into panels of bytes, once for all rows of a call. Tile registers sum each block's integers into
 *            memory; vectors multiply them with the scale and add them to totals, which stay in registers while the blocks pass, and meanwhile the
 *            next block is summed.
 *
 * Inside a block nothing is rounded. Its number is made in steps, and steps are multiplied out when all blocks are added: a power of two, which only products
 * too small for normal floats would notice. */
#include "codegen/analyse.h"
#include "codegen/llvm/micro.h"

/* ---- a block's number ---- */
/* What is multiplied with the scale, in steps. zero: negative, in steps; NULL: none. */
static V number_of(const Micro *m, V sum, V values, V zero)
{
    V number = LLVMBuildSIToFP(m->x->b, sum, m->total_type, "");
    return zero ? scalar_fma(m->x, splat(m->x, values, LLVMGetVectorSize(m->total_type)), zero, number) : number;
}

static V zero_steps(const Micro *m, V zero)
{
    return LLVMBuildFMul(m->x->b, zero, real_of(LLVMTypeOf(zero), -1 / (double)m->t->steps), "");
}

/* ---- vectors ---- */
static V part_of(Micro *m, V all, unsigned part) /* the lanes of one register */
{
    V index[64];
    unsigned lanes = m->lanes / m->parts;
    if (m->parts == 1) return all;
    for (unsigned i = 0; i < lanes; i++) index[i] = LLVMConstInt(m->x->i32, part * lanes + i, 0);
    return LLVMBuildShuffleVector(m->x->b, all, LLVMGetUndef(LLVMTypeOf(all)), LLVMConstVector(index, lanes), "");
}

/* The totals of sums in blocks are registers while these are enough for them beside a block's sums, else volatile memory, or they would be moved
 * to and fro in the hot loop. */
static bool totals_fit(const Micro *m)
{
    enum { BESIDE = 3 }; /* a row, ones, a mask */
    return fits_beside(m, (m->rows + 1) * (int)(m->cols * m->parts) + BESIDE);
}

/* Adds to the totals what a block sums to: (steps * sum - zero * values) * scale. */
static void add_block(Micro *m, V totals)
{
    Emit *x = m->x;
    const Tile *t = m->t;
    for (unsigned j = 0; j < m->cols; j++) {
        x->var[t->col] = m->col[j];
        V zero = t->zero ? in_lanes(m, m->mask[j], t->zero) : NULL, values = NULL;
        if (zero) zero = zero_steps(m, zero);
        for (int i = 0; i < m->rows; i++) {
            tile_row(x, t, m->row[i]), x->var[t->col] = m->col[j];
            if (zero) values = emit_scalar(x, t->sum);
            V scale = in_lanes(m, m->mask[j], t->scale);
            for (unsigned p = 0; p < m->parts; p++) {
                V sum = m->acc[i][j][p], at = total_at(m, totals, i, j, p), part = zero ? part_of(m, zero, p) : NULL;
                V number = number_of(m, sum, values, part);
                V total = LLVMBuildLoad2(x->b, m->total_type, at, "");
                V store = LLVMBuildStore(x->b, scalar_fma(x, number, part_of(m, scale, p), total), at);
                LLVMSetVolatile(total, !totals_fit(m)), LLVMSetVolatile(store, !totals_fit(m));
                LLVMSetAlignment(total, SCRATCH_ALIGN / m->parts), LLVMSetAlignment(store, SCRATCH_ALIGN / m->parts);
            }
        }
    }
}

static void each_block(Micro *m, int d, V totals)
{
    Emit *x = m->x;
    if (d == m->t->blocks) {
        EACH_ACC(m, i, j, p) m->acc[i][j][p] = LLVMConstNull(m->acc_type);
        depth_loop(m, d);
        add_block(m, totals);
        return;
    }
    int axis = m->t->depth[d];
    Loop l = loop_head(x, int64(x, 0), emit_scalar(x, x->k->axis.at[axis].extent));
    loop_body(x, &l);
    x->var[axis] = l.i;
    each_block(m, d + 1, totals);
    loop_close(x, &l, 1);
}

void sum_codes(Micro *m)
{
    Emit *x = m->x;
    T all = LLVMArrayType2(m->acc_type, (uint64_t)m->rows * m->cols * m->parts);
    V totals = LLVMBuildAlloca(x->entry, all, "totals");
    LLVMSetAlignment(totals, SCRATCH_ALIGN);
    EACH_ACC(m, i, j, p) LLVMBuildStore(x->b, m->acc[i][j][p], total_at(m, totals, i, j, p));
    m->acc_type = LLVMVectorType(x->i32, m->lanes / m->parts);
    each_block(m, 0, totals);
    m->acc_type = m->total_type;
    EACH_ACC(m, i, j, p)
    {
        V total = LLVMBuildLoad2(x->b, m->acc_type, total_at(m, totals, i, j, p), "");
        if (m->t->steps != 1) total = LLVMBuildFMul(x->b, total, real_of(m->acc_type, (double)m->t->steps), "");
        m->acc[i][j][p] = total;
    }
}

/* ---- tiles ---- */
enum { TILE_ROWS = 16, CHUNK = 16, CHUNK_LINES = 256, MOST_WORDS = 256 }; /* blocks and lines of panels that are unpacked at a time; words of a block */

typedef struct Coded {
    Micro *m;
    int words, lines;  /* of a block; of memory, that its codes fill */
    int axis, chunk;   /* the loop over blocks, so many of which are unpacked at a time */
    V end, by;         /* rows that exist; bytes from one to the next */
    V panels, sums;    /* of a chunk; of two blocks by turns */
    V totals;          /* f32, tile after tile */
    V first, n;        /* the chunk's first block, and how many it has */
    V tile, begin;     /* rows before the tile; its first one, which may be earlier */
} Coded;

/* Words of a block if they lie one after the other in each row; else 0. */
static int words_of_block(const Micro *m)
{
    Kernel *k = m->x->k;
    int64_t words = 1, n;
    for (int d = m->depths; d-- > m->t->blocks;) {
        if (!expr_is_index(k, k->axis.at[m->t->depth[d]].extent, &n)) return 0;
        if (n > 1 && !step_is(k, m->left_at, m->t->depth[d], words * WORD_BYTES)) return 0;
        words *= n;
        if (words > MOST_WORDS) return 0;
    }
    return (int)words;
}

static bool match_coded(Micro *m, Coded *c)
{
    const Tile *t = m->t;
    if (strcmp(m->s->name, "tiles") || !t->scale || !t->dot || !t->blocks || !m->adjacent || m->whole || t->line) return false;
    if (m->x->target->dot != DOT_AMX || m->left_type != DT_i8 || !expr_step(m->x->k, m->left_at, t->row)) return false;
    *c = (Coded){.m = m, .words = words_of_block(m), .axis = t->depth[t->blocks - 1]};
    c->lines = c->words;
    for (int d = t->blocks; d < m->depths; d++)
        if (is_shift(m, t->depth[d])) c->lines /= (int)expr_constant(m->x->k, m->x->k->axis.at[t->depth[d]].extent, 1);
    return c->words > 0;
}

int coded_words(Micro *m)
{
    Coded c;
    return match_coded(m, &c) ? c.words : 0;
}

static V lines_new(Emit *x, int n, const char *name)
{
    V at = LLVMBuildAlloca(x->entry, LLVMArrayType2(x->i8, (uint64_t)n * LINE), name);
    LLVMSetAlignment(at, LINE);
    return at;
}

static V add(Emit *x, V a, V b) { return LLVMBuildAdd(x->b, a, b, ""); }
static V times(Emit *x, V a, int64_t n) { return LLVMBuildMul(x->b, a, int64(x, n), ""); }
static V line_at(Emit *x, V base, V line) { return bytes_on(x, base, times(x, line, LINE)); }

static V aligned(V memory)
{
    LLVMSetAlignment(memory, LINE);
    return memory;
}

/* Tiles begin one after the other, but the last one early enough to be whole. */
static V tile_begins(const Coded *c, V tile)
{
    Emit *x = c->m->x;
    V last = LLVMBuildSub(x->b, c->end, int64(x, x->tiles.rows), "");
    return select2(x, LLVMBuildICmp(x->b, LLVMIntSLT, last, tile, ""), last, tile);
}

static V panel_line(const Coded *c, V block, unsigned panel) /* of the chunk; its first */
{
    Emit *x = c->m->x;
    return times(x, add(x, times(x, block, c->m->cols), int64(x, panel)), c->words);
}

static void unpack(Coded *c, int d, V block, V word) /* so many words of the block come before */
{
    Micro *m = c->m;
    Emit *x = m->x;
    int64_t n;
    if (d == m->depths) {
        for (unsigned j = 0; j < m->cols; j++) {
            V at = line_at(x, c->panels, add(x, panel_line(c, block, j), word));
            aligned(LLVMBuildStore(x->b, right_panel(m, j, 0), at));
        }
        return;
    }
    int axis = m->t->depth[d];
    expr_is_index(x->k, x->k->axis.at[axis].extent, &n);
    word = times(x, word, n);
    if (n > 1 && !is_shift(m, axis)) {
        Loop l = loop_head(x, int64(x, 0), int64(x, n));
        loop_body(x, &l), loop_runs(x, &l, n);
        x->var[axis] = l.i;
        unpack(c, d + 1, block, add(x, word, l.i));
        loop_close(x, &l, 1);
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        x->var[axis] = int64(x, i);
        unpack(c, d + 1, block, add(x, word, x->var[axis]));
    }
}

static void at_block(const Coded *c, V block) /* of the chunk */
{
    Emit *x = c->m->x;
    x->var[c->axis] = add(x, c->first, block);
    for (int d = c->m->t->blocks; d < c->m->t->depths; d++) x->var[c->m->t->depth[d]] = int64(x, 0);
}

static void sum_block(const Coded *c, unsigned panel, V block, V sums)
{
    Micro *m = c->m;
    Emit *x = m->x;
    TileBlock b = {.words = c->words, .by = c->by, .out = sums, .right = line_at(x, c->panels, panel_line(c, block, panel))};
    at_block(c, block);
    tile_row(x, m->t, c->begin);
    forget_all(x);
    b.left = emit_address(x, m->left_buf, m->left_at);
    tiles_block(x, &b);
}

/* A value of each row. Rows at constant distances are read from the first one, whose address optimisation does not look behind: it would make one for
 * each, and there are registers for few. */
typedef struct OfRow {
    Expr value;
    V first;       /* address; NULL: none */
    int64_t apart; /* elements */
} OfRow;

static OfRow of_row(const Coded *c, Expr value)
{
    Emit *x = c->m->x;
    Kernel *k = x->k;
    OfRow r = {.value = value};
    ExprNode n = *expr_node(k, value);
    if (n.kind != E_LOAD || n.type != DT_f32) return r;
    Expr at = buf_address(k, (int)n.id, n.arg), by = expr_step(k, at, c->m->t->row);
    if (!by || !expr_is_index(k, by, &r.apart)) return r;
    tile_row(x, c->m->t, c->begin);
    forget_all(x);
    V p = emit_address(x, (int)n.id, at);
    r.first = intrinsic(x, "llvm.launder.invariant.group", &x->ptr, 1, &p, 1);
    return r;
}

static V row_value(const Coded *c, const OfRow *r, int i) /* the axes of rows have their values */
{
    Emit *x = c->m->x;
    if (!r->first) return emit_scalar(x, r->value);
    V by = int64(x, i * r->apart);
    return LLVMBuildLoad2(x->b, x->f32, LLVMBuildInBoundsGEP2(x->b, x->f32, r->first, &by, 1, ""), "");
}

/* A scale is the product of one of rows and one of columns, or any value. */
static bool split_scale(const Micro *m, Expr *row, Expr *column)
{
    const Kernel *k = m->x->k;
    ExprNode n = *expr_node(k, m->t->scale);
    if (n.kind != E_PRIM || n.prim != P_mul) return false;
    for (int i = 0; i < 2; i++) {
        *row = n.arg[i], *column = n.arg[!i];
        bool moves = expr_uses(k, *row, m->t->lane) || expr_uses(k, *row, m->t->col);
        if (!moves && !expr_uses(k, *column, m->t->row)) return true;
    }
    return false;
}

static void add_sums(const Coded *c, unsigned panel, V block, V sums, V *total)
{
    Micro *m = c->m;
    Emit *x = m->x;
    const Tile *t = m->t;
    T ints = LLVMVectorType(x->i32, m->lanes);
    V mask = m->mask[panel], zero = NULL, scale = NULL, values = NULL;
    Expr row = 0, column = 0;
    bool split = split_scale(m, &row, &column);
    at_block(c, block), x->var[t->col] = m->col[panel];
    OfRow factor = {0}, sum_of = {0};
    if (t->zero) sum_of = of_row(c, t->sum), zero = zero_steps(m, in_lanes(m, mask, t->zero));
    if (split) factor = of_row(c, row), scale = in_lanes(m, mask, column);
    for (int i = 0; i < x->tiles.rows; i++) {
        V sum = aligned(LLVMBuildLoad2(x->b, ints, line_at(x, sums, int64(x, i)), "")), by = scale;
        tile_row(x, t, add(x, c->begin, int64(x, i)));
        if (zero) values = row_value(c, &sum_of, i);
        if (split) by = LLVMBuildFMul(x->b, scale, splat(x, row_value(c, &factor, i), m->lanes), "");
        else x->var[t->col] = m->col[panel], by = in_lanes(m, mask, t->scale);
        total[i] = scalar_fma(x, number_of(m, sum, values, zero), by, total[i]);
    }
}

/* Unpacking takes little time and products much: while these are made, each tile asks for a part of the block's codes in the panels that come next. */
static void ask_codes(const Coded *c, unsigned panel, V block)
{
    Micro *m = c->m;
    Emit *x = m->x;
    if (!m->far) return;
    int tiles = (m->rows + x->tiles.rows - 1) / x->tiles.rows, lines = (c->lines + tiles - 1) / tiles;
    at_block(c, block);
    V at = add(x, int64(x, bytes_until(m)), times(x, LLVMBuildUDiv(x->b, c->tile, int64(x, x->tiles.rows), ""), (int64_t)lines * LINE));
    at = bytes_on(x, right_line(m, m->col[panel]), at);
    for (int i = 0; i < lines; i++) ask(m, bytes_on(x, at, int64(x, (int64_t)i * LINE)), 2);
}

static V tile_total(const Coded *c, V tile, int row, unsigned panel)
{
    Emit *x = c->m->x;
    return line_at(x, c->totals, add(x, times(x, add(x, tile, int64(x, row)), c->m->cols), int64(x, panel)));
}

/* A tile's rows times a panel: while vectors add the sums of one block, tiles make those of the next. */
static void sum_panel(const Coded *c, unsigned panel)
{
    Micro *m = c->m;
    Emit *x = m->x;
    int rows = x->tiles.rows;
    V total[TILE_ROWS], phi[TILE_ROWS], zero = int64(x, 0), one = int64(x, 1);
    for (int i = 0; i < rows; i++) total[i] = aligned(LLVMBuildLoad2(x->b, m->total_type, tile_total(c, c->tile, i, panel), ""));
    sum_block(c, panel, zero, c->sums);
    Loop l = loop_head(x, zero, c->n);
    for (int i = 0; i < rows; i++) {
        phi[i] = LLVMBuildPhi(x->b, m->total_type, "total");
        LLVMAddIncoming(phi[i], &total[i], &l.from, 1);
        total[i] = phi[i];
    }
    loop_body(x, &l), loop_runs(x, &l, c->chunk);
    V next = add(x, l.i, one), turn[2] = {LLVMBuildAnd(x->b, l.i, one, ""), LLVMBuildAnd(x->b, next, one, "")}, sums[2];
    for (int i = 0; i < 2; i++) sums[i] = line_at(x, c->sums, times(x, turn[i], TILE_ROWS));
    Branch more = branch_open(x, LLVMBuildICmp(x->b, LLVMIntSLT, next, c->n, ""));
    sum_block(c, panel, next, sums[1]);
    branch_close(x, more);
    ask_codes(c, panel, l.i);
    add_sums(c, panel, l.i, sums[0], total);
    loop_close(x, &l, 1);
    for (int i = 0; i < rows; i++) {
        LLVMAddIncoming(phi[i], &total[i], &l.body, 1);
        aligned(LLVMBuildStore(x->b, phi[i], tile_total(c, c->tile, i, panel)));
    }
}

static void sum_chunk(Coded *c)
{
    Micro *m = c->m;
    Emit *x = m->x;
    V zero = int64(x, 0);
    Loop blocks = loop_head(x, zero, c->n);
    loop_body(x, &blocks), loop_runs(x, &blocks, c->chunk);
    at_block(c, blocks.i);
    unpack(c, m->t->blocks, blocks.i, zero);
    loop_close(x, &blocks, 1);
    Loop tiles = loop_head(x, zero, c->end);
    loop_body(x, &tiles);
    c->tile = tiles.i, c->begin = tile_begins(c, tiles.i);
    for (unsigned j = 0; j < m->cols; j++) sum_panel(c, j);
    loop_close(x, &tiles, x->tiles.rows);
}

static void each_chunk(Coded *c, int d)
{
    Emit *x = c->m->x;
    int axis = c->m->t->depth[d];
    bool chunks = axis == c->axis;
    V end = emit_scalar(x, x->k->axis.at[axis].extent), most = int64(x, c->chunk);
    Loop l = loop_head(x, int64(x, 0), end);
    loop_body(x, &l);
    x->var[axis] = c->first = l.i;
    if (chunks) {
        V left = LLVMBuildSub(x->b, end, l.i, "");
        c->n = select2(x, LLVMBuildICmp(x->b, LLVMIntSLT, left, most, ""), left, most);
        sum_chunk(c);
    } else each_chunk(c, d + 1);
    loop_close(x, &l, chunks ? c->chunk : 1);
}

/* The totals of rows that exist, one after the other, in whole numbers instead of steps: rows of the last tile that the one before has, too, go. */
static void close_ranks(const Coded *c)
{
    Micro *m = c->m;
    Emit *x = m->x;
    V steps = real_of(m->total_type, (double)m->t->steps);
    if (m->fixed_row && m->rows % x->tiles.rows == 0 && m->t->steps == 1) return;
    Loop l = loop_head(x, int64(x, 0), c->end);
    loop_body(x, &l);
    V into = LLVMBuildURem(x->b, l.i, int64(x, x->tiles.rows), ""), tile = LLVMBuildSub(x->b, l.i, into, "");
    V more = LLVMBuildSub(x->b, tile, tile_begins(c, tile), "");
    for (unsigned j = 0; j < m->cols; j++) {
        V total = aligned(LLVMBuildLoad2(x->b, m->total_type, tile_total(c, add(x, l.i, more), 0, j), ""));
        aligned(LLVMBuildStore(x->b, LLVMBuildFMul(x->b, total, steps, ""), tile_total(c, l.i, 0, j)));
    }
    loop_close(x, &l, 1);
}

static void sum_tiles(Coded *c, V end)
{
    Micro *m = c->m;
    Emit *x = m->x;
    int tiles = (m->rows + x->tiles.rows - 1) / x->tiles.rows * x->tiles.rows, cols = (int)m->cols;
    int64_t n = expr_constant(x->k, x->k->axis.at[c->axis].extent, CHUNK);
    c->chunk = CHUNK_LINES / (c->words * cols);
    c->chunk = c->chunk < 1 ? 1 : c->chunk > CHUNK ? CHUNK : c->chunk;
    if (n < c->chunk) c->chunk = n < 1 ? 1 : (int)n;
    c->end = end, c->by = emit_scalar(x, expr_step(x->k, m->left_at, m->t->row));
    c->totals = lines_new(x, tiles * cols, "totals"), c->panels = lines_new(x, c->chunk * c->words * cols, "panels");
    c->sums = lines_new(x, 2 * TILE_ROWS, "sums");
    LLVMBuildMemSet(x->b, c->totals, int_of(x->i8, 0), int64(x, (int64_t)tiles * cols * LINE), LINE);
    each_chunk(c, 0);
    close_ranks(c);
    Micro part = *m;
    part.sums = c->totals, part.sums_row = int64(x, 0);
    finish_tiles(&part, part.sums_row);
}

/* Rows may not exist: those before are summed once more if a tile is not full, and vectors sum what is too few for one. */
static void sum_guarded(Coded *c)
{
    Micro *m = c->m;
    Emit *x = m->x;
    V before = rows_before(m), rows = int64(x, m->rows);
    V end = LLVMBuildSub(x->b, emit_scalar(x, x->k->axis.at[x->k->axis.at[m->t->row].parent].extent), before, "");
    end = select2(x, LLVMBuildICmp(x->b, LLVMIntSLT, end, rows, ""), end, rows);
    V enough = LLVMBuildICmp(x->b, LLVMIntSLE, int64(x, x->tiles.rows), add(x, before, end), "");
    Branch whole = branch_open(x, enough);
    sum_tiles(c, end);
    branch_close(x, whole);
    Branch few = branch_open(x, LLVMBuildNot(x->b, enough, ""));
    blocks(m, int64(x, 0), m->rows, TAIL_ROWS);
    branch_close(x, few);
}

void call_coded(Micro *m)
{
    Coded c;
    bool is = match_coded(m, &c);
    assert(is);
    (void)is;
    m->in_tiles = (TileSum){.t = m->t, .lines = 1, .width = m->rows, .run = m->rows, .words = expr_index(m->x->k, c.words)};
    if (m->fixed_row) sum_tiles(&c, int64(m->x, m->rows));
    else sum_guarded(&c);
}
