/* amx.c - the tile unit of x86 (AMX): u8 x i8, i8 x u8 and bf16 x bf16 sums of a `tiles` call in tile registers.
 *
 * Comes in: the address formulas of a matched call (micro.c) and which rows and panels are wanted. Goes out: code that
 * leaves the i32 or f32 sums in memory, from where the ordinary epilogue reads them row by row.
 *
 *   left   a row of the tile is a row of the output: any constant step between rows, straight from the activations
 *   right  the weight panels as they are: 16 rows (words of 4 bytes) of 16 lanes, 1 KB one after the other
 *   sums   up to four tiles (2 x 2, 4 x 1, 1 x 4 ...), which stay in their registers over all loops of the sum
 *
 * Rows of a call that exist are all in tiles, which overlap where they do not divide them. Tiles may belong to several lines of an image; where
 * these are short and lie close to each other, a tile goes on through the gap, and nobody reads what it sums there.
 *
 * What is read once, while the next call reads the other factor again, is loaded with a hint that keeps it out of the first cache (TILELOADDT1):
 * the other one stays there.
 *
 * Tiles have numbers, not values: the instructions are ordered side effects and nothing is allocated. One configuration
 * holds for the whole kernel, loaded on entry (about 60 ns; it belongs to the thread) and released by the runtime when
 * a run ends: a tile has `rows` rows and a step takes `words` words, chosen for the kernel's largest call.
 * Rows that are fewer or may be missing, and words that do not divide, micro.c adds with vector instructions. No tile touches a byte that is not an
 * operand, or between two. */
#include "codegen/analyse.h"
#include "codegen/llvm/internal.h"

enum { SUMS = 0, LEFT = 4, RIGHT = 6, PER_SIDE = 2 }; /* tile numbers */
enum { TILE_ROWS = 16, TILE_WORDS = 16, WORD_BYTES = 4, ROW_BYTES = 64, TILES = 8, CONFIG_BYTES = 64, MOST_TURNS = 6 };

/* ---- shapes ---- */
static int64_t tiles_in(int64_t rows) { return (rows + TILE_ROWS - 1) / TILE_ROWS; }

/* As few tiles as can be, and of as few rows as can be: products take less time then. */
int tile_rows_for(int64_t rows) { return (int)((rows + tiles_in(rows) - 1) / tiles_in(rows)); }

int tiles_for(int64_t lines, int64_t rows, int64_t pitch, int64_t *run)
{
    int64_t through = (lines - 1) * pitch + rows, apart = lines * tiles_in(rows);
    bool one = lines > 1 && pitch >= rows && tiles_in(through) < apart;
    *run = one ? through : rows;
    return (int)(one ? tiles_in(through) : apart);
}

int tiles_of_call(const Emit *x, const TileSum *s)
{
    int rows = x->tiles.rows;
    return s->run < rows ? 0 : (s->run + rows - 1) / rows * (tiles_go_through(s) ? 1 : s->lines);
}

/* The row that tile i begins with, among all that follow each other and then the next such run. The last tile of a run overlaps the one before it
 * where they do not divide it: it sums the same. */
static int tile_begin(const Emit *x, const TileSum *s, int i)
{
    int rows = x->tiles.rows, each = (s->run + rows - 1) / rows, at = i % each * rows;
    return i / each * s->run + (at + rows > s->run ? s->run - rows : at);
}

/* words < 0: not known */
static int step_words_for(int64_t words)
{
    enum { STEP_COST = 64, VECTOR_WORD_COST = 50 }; /* of 2 x 2 tiles */
    int best = TILE_WORDS;
    int64_t least = INT64_MAX;
    for (int w = 1; w <= TILE_WORDS && w <= words; w++) {
        int64_t cost = words / w * STEP_COST + words % w * VECTOR_WORD_COST;
        if (cost <= least) least = cost, best = w;
    }
    return best;
}

static int64_t words_of(Emit *x, const TileSum *s)
{
    int64_t n;
    return expr_is_index(x->k, s->words, &n) ? n : -1;
}

/* An axis of few values that moves no operand by a constant step chooses between operands (planes of one factor): within a step its values take
 * turns, and what two of them have in common is loaded once. */
static int turning_axis(Kernel *k, const TileSum *s, int *turns)
{
    int64_t n;
    for (int d = 0; d < s->t->depths; d++) {
        int a = s->t->depth[d];
        if (a == s->inner || a == s->t->dot || (expr_step(k, s->left_at, a) && expr_step(k, s->right_at, a))) continue;
        if (!expr_is_index(k, k->axis.at[a].extent, &n) || n > MOST_TURNS) continue;
        *turns = (int)n;
        return a;
    }
    *turns = 1;
    return 0;
}

static Expr at_turn(Emit *x, const TileSum *s, Expr at, int turn)
{
    Expr *map = NEW_ARRAY(x->mem, Expr, x->k->axis.n);
    map[s->turn] = expr_index(x->k, turn);
    return expr_map(x->k, at, map);
}

/* Panels are read once in a call. So are rows, if a sum has one loop: the places of a window share theirs. */
static Factor passing_factor(const Kernel *k, const TileSum *s)
{
    const Tile *t = s->t;
    if (t->again == FACTOR_LEFT) return s->turns == 1 ? FACTOR_RIGHT : FACTOR_NONE;
    for (int d = 0; d < t->depths; d++) {
        bool word = t->depth[d] == t->dot || t->depth[d] == s->inner;
        if (!word && !expr_is(k, k->axis.at[t->depth[d]].extent, 1)) return FACTOR_NONE;
    }
    return t->again == FACTOR_RIGHT ? FACTOR_LEFT : FACTOR_NONE;
}

bool tiles_fit(Emit *x, TileSum *s)
{
    Kernel *k = x->k;
    const Tile *t = s->t;
    bool bytes = s->word == WORD_BYTES;
    int64_t lanes = ROW_BYTES / WORD_BYTES;
    if (!s->inner || !(bytes ? x->target->dot == DOT_AMX : x->target->pair == PAIR_AMX)) return false;
    if (!step_is(k, s->left_at, s->inner, s->word) || !step_is(k, s->left_at, t->dot, 1)) return false;
    if (!step_is(k, s->right_at, s->inner, lanes * s->word) || !step_is(k, s->right_at, t->lane, s->word)) return false;
    s->row_step = expr_step(k, s->left_at, t->row);
    if (!s->row_step || words_of(x, s) == 0) return false;
    int64_t run;
    s->pitch = t->line ? rows_apart(k, s->left_at, t->line, t->row) : 0;
    tiles_for(s->lines, s->width, s->pitch, &run);
    s->run = (int)run;
    s->turn = turning_axis(k, s, &s->turns);
    s->passes = passing_factor(k, s);
    return true;
}

/* The configuration is the one that suits the call with the most rows. */
void tiles_want(Emit *x, const TileSum *s, int rows)
{
    if (x->tiles.most >= rows) return;
    x->tiles = (TileShape){.most = rows, .rows = tile_rows_for(s->run), .words = step_words_for(words_of(x, s))};
}

/* ---- instructions, or calls that emulate them ---- */
static V number(const Emit *x, int tile)
{
    return LLVMConstInt(x->target->emulate ? x->i32 : x->i8, (unsigned)tile, 0);
}

static void tile_op(Emit *x, const char *name, void (*emulated)(void), V *arg, unsigned n)
{
    T type[3];
    if (!x->target->emulate) {
        intrinsic(x, name, NULL, 0, arg, n);
        return;
    }
    for (unsigned i = 0; i < n; i++) type[i] = LLVMTypeOf(arg[i]);
    V at = LLVMConstIntToPtr(int64(x, (int64_t)(intptr_t)emulated), x->ptr);
    LLVMBuildCall2(x->b, LLVMFunctionType(LLVMVoidTypeInContext(x->c), type, n, 0), at, arg, n, "");
}
#define EMULATED(x, op) ((x)->target->emulate ? (void (*)(void))(x)->target->emulate->op : NULL)

static void tile_zero(Emit *x, int tile)
{
    tile_op(x, "llvm.x86.tilezero", EMULATED(x, zero), (V[]){number(x, tile)}, 1);
}

static void tile_load(Emit *x, int tile, V at, V step, bool passes)
{
    tile_op(x, passes ? "llvm.x86.tileloaddt164" : "llvm.x86.tileloadd64", EMULATED(x, load),
            (V[]){number(x, tile), at, step}, 3);
}

static void tile_store(Emit *x, int tile, V at, V step)
{
    tile_op(x, "llvm.x86.tilestored64", EMULATED(x, store), (V[]){number(x, tile), at, step}, 3);
}

static void tile_dot(Emit *x, int word, int sum, int left, int right)
{
    V arg[3] = {number(x, sum), number(x, left), number(x, right)};
    if (word == WORD_BYTES) tile_op(x, "llvm.x86.tdpbusd", EMULATED(x, dot), arg, 3);
    else tile_op(x, "llvm.x86.tdpbf16ps", EMULATED(x, dot_bf16), arg, 3);
}

static void tile_dot_codes(Emit *x, int sum, int left, int right)
{
    V arg[3] = {number(x, sum), number(x, left), number(x, right)};
    tile_op(x, "llvm.x86.tdpbsud", EMULATED(x, dot_codes), arg, 3);
}

/* The 64 bytes of LDTILECFG: palette 1, then bytes a row as 16 bits from byte 16 and rows from byte 48, per tile. */
void tiles_configure(Emit *x)
{
    uint8_t config[CONFIG_BYTES] = {1};
    for (int t = 0; t < TILES; t++) {
        config[16 + 2 * t] = (uint8_t)(t >= LEFT && t < RIGHT ? x->tiles.words * WORD_BYTES : ROW_BYTES);
        config[48 + t] = (uint8_t)(t >= RIGHT ? x->tiles.words : x->tiles.rows);
    }
    V bytes = LLVMConstStringInContext2(x->c, (const char *)config, sizeof config, 1);
    V at = LLVMBuildAlloca(x->entry, LLVMTypeOf(bytes), "tiles");
    LLVMSetAlignment(at, SCRATCH_ALIGN);
    LLVMSetAlignment(LLVMBuildStore(x->b, bytes, at), SCRATCH_ALIGN);
    tile_op(x, "llvm.x86.ldtilecfg", EMULATED(x, configure), &at, 1);
}

void tiles_busy(Emit *x, int word)
{
    for (int i = 0; i < PER_SIDE; i++)
        for (int j = 0; j < PER_SIDE; j++) tile_dot(x, word, SUMS + i * PER_SIDE + j, LEFT + i, RIGHT + j);
}

void tiles_free(Emit *x) { intrinsic(x, "llvm.x86.tilerelease", NULL, 0, NULL, 0); }

/* ---- the sum ---- */
typedef struct Group { /* some row tiles x some panels */
    const TileSum *s;
    V row;           /* the call's first */
    int first, rows; /* tiles */
    const V *col;
    int cols;
} Group;

static V left_tile(Emit *x, const Group *g, int i, V step) /* bytes from row to row */
{
    const TileSum *s = g->s;
    int row = tile_begin(x, s, g->first + i), before = tiles_go_through(s) ? row : 0; /* of its run */
    tile_row(x, s->t, LLVMBuildAdd(x->b, g->row, int64(x, row - before), ""));
    forget_all(x);
    V at = emit_address(x, s->left_buf, s->left_at), by = LLVMBuildMul(x->b, step, int64(x, before), "");
    return before ? LLVMBuildInBoundsGEP2(x->b, x->i8, at, &by, 1, "") : at;
}

static V right_tile(Emit *x, const Group *g, int j)
{
    x->var[g->s->t->col] = g->col[j], x->var[g->s->t->lane] = int64(x, 0);
    forget_all(x);
    return emit_address(x, g->s->right_buf, g->s->right_at);
}

static bool same_at(Emit *x, const TileSum *s, Expr at, int turn, int before) /* before < 0: there was none */
{
    return before >= 0 && at_turn(x, s, at, turn) == at_turn(x, s, at, before);
}

/* Few panels stay in their tiles while the rows pass, or one tile of rows while the panels pass. Loads stand beside
 * their use. */
static void group_turn(Emit *x, const Group *g, int turn, int before)
{
    if (g->s->turn) x->var[g->s->turn] = int64(x, turn);
    bool left_stays = g->rows <= PER_SIDE && same_at(x, g->s, g->s->left_at, turn, before);
    bool right_stays = g->cols <= PER_SIDE && same_at(x, g->s, g->s->right_at, turn, before);
    x->var[g->s->t->dot] = int64(x, 0);
    Expr bytes = expr_index(x->k, WORD_BYTES / g->s->word); /* of an element */
    V step = emit_scalar(x, expr_mul(x->k, g->s->row_step, bytes)), row_bytes = int64(x, ROW_BYTES);
    bool keep_right = g->cols <= PER_SIDE;
    assert(keep_right || g->rows == 1);
    for (int i = 0; i < g->rows; i++)
        for (int j = 0; j < g->cols; j++) {
            int left = LEFT + i % PER_SIDE, right = RIGHT + j % PER_SIDE;
            if ((!i || !keep_right) && !right_stays)
                tile_load(x, right, right_tile(x, g, j), row_bytes, g->s->passes == FACTOR_RIGHT);
            if (!j && !left_stays) tile_load(x, left, left_tile(x, g, i, step), step, g->s->passes == FACTOR_LEFT);
            tile_dot(x, g->s->word, SUMS + i * g->cols + j, left, right);
        }
}

/* One that has an operand in common with the turn before, or else the first that is left. */
static int next_turn(Emit *x, const TileSum *s, const bool *done, int before)
{
    int first = -1;
    for (int turn = 0; turn < s->turns; turn++) {
        if (done[turn]) continue;
        if (same_at(x, s, s->left_at, turn, before) || same_at(x, s, s->right_at, turn, before)) return turn;
        if (first < 0) first = turn;
    }
    return first;
}

static void group_step(Emit *x, const Group *g)
{
    bool done[MOST_TURNS] = {false};
    for (int n = 0, before = -1; n < g->s->turns; n++) {
        int turn = next_turn(x, g->s, done, before);
        group_turn(x, g, turn, before);
        done[turn] = true, before = turn;
    }
}

static void group_loops(Emit *x, const Group *g, int d)
{
    const Tile *t = g->s->t;
    int axis = t->depth[d];
    if (axis == g->s->turn) {
        group_loops(x, g, d + 1);
        return;
    }
    bool inner = axis == g->s->inner;
    Loop l = loop_head(x, int64(x, 0), emit_scalar(x, inner ? tiles_words(x, g->s) : x->k->axis.at[axis].extent));
    loop_body(x, &l);
    x->var[axis] = l.i;
    if (!inner) group_loops(x, g, d + 1);
    else group_step(x, g);
    if (inner && g->s->between) g->s->between(g->s->ctx);
    loop_close(x, &l, inner ? x->tiles.words : 1);
}

Expr tiles_words(Emit *x, const TileSum *s)
{
    Expr step = expr_index(x->k, x->tiles.words);
    return expr_mul(x->k, expr_div(x->k, s->words, step), step);
}

/* out: the sums of the call's first row and the group's first panel; row_bytes: from one row of sums to the next */
static void group_sum(Emit *x, const Group *g, V out, int64_t row_bytes)
{
    int tiles = g->rows * g->cols;
    for (int a = 0; a < tiles; a++) tile_zero(x, SUMS + a);
    group_loops(x, g, 0);
    for (int a = 0; a < tiles; a++) {
        int64_t row = tile_begin(x, g->s, g->first + a / g->cols);
        V at = int64(x, row * row_bytes + (int64_t)(a % g->cols) * ROW_BYTES);
        tile_store(x, SUMS + a, LLVMBuildInBoundsGEP2(x->b, x->i8, out, &at, 1, ""), int64(x, row_bytes));
    }
}

void tiles_sum(Emit *x, const TileSum *s, V first, int n, const V *col, int cols, V out)
{
    enum { MOST = LEFT - SUMS };
    int rows = n < MOST ? n : MOST, each = MOST / rows;
    int64_t row_bytes = (int64_t)cols * ROW_BYTES;
    if (rows > 1 && each > PER_SIDE) each = PER_SIDE;
    for (int i = 0; i < n; i += rows)
        for (int j = 0; j < cols; j += each) {
            V at = int64(x, (int64_t)j * ROW_BYTES);
            Group g = {.s = s, .row = first, .first = i, .col = col + j};
            g.rows = n - i < rows ? n - i : rows, g.cols = cols - j < each ? cols - j : each;
            group_sum(x, &g, LLVMBuildInBoundsGEP2(x->b, x->i8, out, &at, 1, ""), row_bytes);
        }
}

/* ---- codes in blocks ---- */
/* Steps are as long as divide a block: what is left over would be summed with vectors for each of them. */
static int step_words_of(int words)
{
    int step = words < TILE_WORDS ? words : TILE_WORDS;
    while (words % step) step--;
    return step;
}

void tiles_want_codes(Emit *x, int rows, int words)
{
    if (x->tiles.most >= rows) return;
    x->tiles = (TileShape){.most = rows, .rows = tile_rows_for(rows), .words = step_words_of(words)};
}

bool tiles_take_codes(const Emit *x, int words, int rows)
{
    return words && x->tiles.most && words % x->tiles.words == 0 && rows >= x->tiles.rows;
}

static V bytes_behind(Emit *x, V at, int64_t by)
{
    V n = int64(x, by);
    return LLVMBuildInBoundsGEP2(x->b, x->i8, at, &n, 1, "");
}

void tiles_block(Emit *x, const TileBlock *b)
{
    V line = int64(x, ROW_BYTES);
    tile_zero(x, SUMS);
    for (int w = 0; w < b->words; w += x->tiles.words) {
        tile_load(x, LEFT, bytes_behind(x, b->left, (int64_t)w * WORD_BYTES), b->by, false);
        tile_load(x, RIGHT, bytes_behind(x, b->right, (int64_t)w * ROW_BYTES), line, false);
        tile_dot_codes(x, SUMS, LEFT, RIGHT);
    }
    tile_store(x, SUMS, b->out, line);
}
