/* micro.c - the `contract` call: a register tile of a contraction, rows x (columns x lanes) accumulators in registers.
 *
 * Operands, guards and epilogue go through emit_value() like any other expression, so strides, packing and fusion need
 * nothing here. What loops cannot say is said here: instructions that sum the products of 32-bit words of narrow elements, four
 * bytes or two bf16, at once. Every level computes the same i32 sums: nothing saturates anywhere. The f32 sums of bf16 products
 * differ in their rounding.
 *
 *   f32    acc += splat(left) * right, fused where the target has it; long sums in blocks that are added up
 *   dots   the terms of a sum in lanes, where both factors have them side by side and no panels (dots.c)
 *   blocks codes of weights in blocks with a scale each: words are summed within a block, the sums times the scale are the float sum
 *   words  left: consecutive elements of a row as one word, right: a panel of 16 lanes x one word
 *          bytes  VNNI: vpdpbusd.  Others: both sides split into even and odd bytes widened to 16 bits, then vpmaddwd: exact.
 *          bf16   vdpbf16ps.  Others: both sides split into even and odd elements widened to f32, then f32 sums.
 *
 *   tiles  a call that asks for them: tile registers sum what divides (amx.c); this file adds the rest to their sums
 *
 * Rows past the end: the tile is made in blocks of few rows, whose missing rows read the block's first row and are not
 * stored. Panels past the end read the first panel. */
#include "codegen/llvm/micro.h"
#include "codegen/analyse.h"
#include "codegen/blocking.h"

V select2(Emit *x, V c, V a, V b) { return LLVMBuildSelect(x->b, c, a, b, ""); }

/* Row i of a tile: of all lines, one after the other. */
void tile_row(Emit *x, const Tile *t, V i)
{
    int64_t width;
    x->var[t->row] = i;
    if (!t->line || !expr_is_index(x->k, x->k->axis.at[t->row].extent, &width)) return;
    x->var[t->line] = LLVMBuildUDiv(x->b, i, int64(x, width), ""),
    x->var[t->row] = LLVMBuildURem(x->b, i, int64(x, width), "");
}

/* ---- can it be done? ---- */
static bool constant_extent(const Kernel *k, int axis, int64_t max, int64_t *n)
{
    return expr_is_index(k, k->axis.at[axis].extent, n) && *n >= 1 && *n <= max;
}

static bool is_byte(DType t) { return t == DT_u8 || t == DT_i8; }

static bool match_dot(Micro *m)
{
    Kernel *k = m->x->k;
    ExprNode l = *expr_node(k, m->left), r = *expr_node(k, m->right);
    bool bytes = is_byte((DType)l.type) && is_byte((DType)r.type) && m->t->acc == DT_i32;
    bool pairs = l.type == DT_bf16 && r.type == DT_bf16 && m->t->acc == DT_f32;
    if ((!bytes && !pairs) || r.kind != E_LOAD || m->lanes != DOT_LANES) return false;
    m->word = WORD_BYTES / dtypes[l.type].bytes;
    m->right_buf = (int)r.id, m->right_at = buf_address(k, m->right_buf, r.arg);
    if (!step_is(k, m->right_at, m->t->dot, 1) || !step_is(k, m->right_at, m->t->lane, m->word)) return false;
    m->adjacent = m->left_at && step_is(k, m->left_at, m->t->dot, 1);
    return true;
}

static bool constant_step(Kernel *k, Expr at, int axis, int64_t *n)
{
    Expr step = axis ? expr_step(k, at, axis) : expr_index(k, 0);
    return step && expr_is_index(k, step, n);
}

static void match_left(Micro *m)
{
    Kernel *k = m->x->k;
    ExprNode l = *expr_node(k, m->left);
    if (l.kind != E_LOAD || m->left_type == DT_bool) return;
    m->left_buf = (int)l.id, m->left_at = buf_address(k, m->left_buf, l.arg);
    m->even = !m->t->row_guard && constant_step(k, m->left_at, m->t->row, &m->apart[0]) &&
              constant_step(k, m->left_at, m->t->line, &m->apart[1]);
}

/* A panel layout ends in the lanes, all of which exist in memory. */
static bool is_padded(const Kernel *k, Expr right, unsigned lanes, bool dot)
{
    ExprNode r = *expr_node(k, right);
    if (r.kind != E_LOAD) return false;
    const Layout *l = &k->buf.at[r.id].layout;
    int at = l->n - 1 - dot;
    if (at < 0 || l->axis[at].div != 1 || l->axis[at].size <= 0) return false;
    return l->axis[at].size % (int)lanes == 0;
}

/* May the last, partial word of a row be read whole? What it has too much meets the zeros a constant's words end in. (Not of floats: it
 * may be infinite.) */
static bool reads_over(const Micro *m)
{
    const Buf *l = &m->x->k->buf.at[m->left_buf], *r = &m->x->k->buf.at[m->right_buf];
    return m->t->acc == DT_i32 && m->adjacent && l->slack && r->kind == BUF_CONST;
}

static bool match(Micro *m)
{
    const Tile *t = m->t;
    Kernel *k = m->x->k;
    int64_t lines = 1, rows, cols, lanes;
    if (strcmp(m->s->name, "contract") && strcmp(m->s->name, "tiles")) return false;
    if (t->acc != DT_f32 && t->acc != DT_i32) return false;
    if (t->line && (t->line_guard || t->row_guard || !constant_extent(k, t->line, MAX_CALL_ROWS, &lines))) return false;
    if (!constant_extent(k, t->row, MAX_CALL_ROWS / lines, &rows) || !constant_extent(k, t->col, MAX_COLS, &cols))
        return false;
    if (!constant_extent(k, t->lane, 64, &lanes) || lanes < 2) return false;
    m->rows = (int)(lines * rows), m->width = (int)rows, m->cols = (unsigned)cols, m->lanes = (unsigned)lanes,
    m->parts = 1;
    m->left = expr_expand(k, t->left), m->right = expr_expand(k, t->right);
    m->left_type = (DType)expr_node(k, t->left)->type, m->right_type = (DType)expr_node(k, t->right)->type;
    m->flips = t->scale && m->right_type == DT_i8;
    if (m->flips) m->right_type = DT_u8; /* as it is multiplied; the zero point knows */
    match_left(m);
    if ((t->dot || t->scale) && !(t->dot && match_dot(m))) return false;
    m->right_padded = is_padded(k, t->right, m->lanes, t->dot != 0);
    if (t->dot && t->lane_guard && !m->right_padded) return false;
    for (int d = 0; d < t->depths; d++) {
        if (t->depth[d] == t->dot) continue;
        if (d != m->depths) return false; /* the dot axis is the innermost one */
        m->depths++;
        int p = k->axis.at[t->depth[d]].parent;
        if (!p || !k->axis.at[p].ragged) continue;
        if (!t->dot || k->axis.at[t->dot].parent != p || k->axis.at[p].parts != 2) return false;
        if (!reads_over(m)) m->whole = p;
    }
    return true;
}

static Expr whole_words(Micro *m) /* of the innermost loop */
{
    Kernel *k = m->x->k;
    const Axis *words = &k->axis.at[m->t->depth[m->depths - 1]];
    bool partial = m->whole && words->parent == m->whole;
    return partial ? expr_div(k, k->axis.at[m->whole].extent, expr_index(k, m->word)) : words->extent;
}

static bool match_tiles(Micro *m)
{
    if (strcmp(m->s->name, "tiles") || !m->t->dot || !m->depths || !m->adjacent) return false;
    bool bytes = m->left_type == DT_u8 && m->right_type == DT_i8, pairs = m->left_type == DT_bf16;
    if (!bytes && !pairs) return false;
    m->in_tiles = (TileSum){.t = m->t,
                            .left_buf = m->left_buf,
                            .right_buf = m->right_buf,
                            .word = m->word,
                            .lines = m->rows / m->width,
                            .width = m->width};
    m->in_tiles.left_at = m->left_at, m->in_tiles.right_at = m->right_at;
    m->in_tiles.inner = m->t->depth[m->depths - 1], m->in_tiles.words = whole_words(m);
    return tiles_fit(m->x, &m->in_tiles);
}

/* ---- how many steps a round of the innermost loop has ---- */
/* Steps in a round of the innermost loop: where units for products count and jump too (Intel), that takes a twentieth of the time. A number that
 * divides the sum and its blocks, so that nothing is left over. Products of several instructions hide it, and want registers between these. */
static int steps_at_once(const Micro *m, int d, Expr extent)
{
    enum { MOST_STEPS = 4, MOST_PRODUCTS = 128 };
    int64_t n;
    if (m->x->small || m->sums || d != m->depths - 1 || !expr_is_index(m->x->k, extent, &n)) return 1;
    if (m->t->dot || m->t->acc != DT_f32 || !m->x->target->fma) return 1;
    int products = m->rows * (int)(m->cols * m->parts), block = n > m->t->block ? m->t->block : 0, steps = MOST_STEPS;
    while (n % steps || block % steps || (steps > 1 && (steps >= n || steps * products > MOST_PRODUCTS))) steps--;
    return steps;
}

/* ---- one point of the sum ---- */
/* Panels of weights that no cache of a core holds come from far away, and what hardware fetches ahead ends with each page:
 * every step asks for the line it will want AHEAD bytes later. Behind a panel lies the next one. */
static bool is_far(Micro *m)
{
    Kernel *k = m->x->k;
    ExprNode r = *expr_node(k, m->right);
    if (r.kind != E_LOAD || !m->right_padded) return false;
    return expr_constant(k, buf_elements(k, (int)r.id), PANELS_FAR) * dtypes[r.type].bytes >= PANELS_FAR;
}

void ask(Micro *m, V line, int cache) /* into the cache of this level */
{
    Emit *x = m->x;
    V read = LLVMConstInt(x->i32, 0, 0), near = LLVMConstInt(x->i32, (unsigned)(4 - cache), 0), data = LLVMConstInt(x->i32, 1, 0);
    intrinsic(x, "llvm.prefetch", &x->ptr, 1, (V[]){line, read, near, data}, 4);
}

V bytes_on(Emit *x, V p, V by) { return LLVMBuildGEP2(x->b, x->i8, p, &by, 1, ""); }

V right_line(Micro *m, V col) /* of this step */
{
    Emit *x = m->x;
    ExprNode r = *expr_node(x->k, m->right);
    x->var[m->t->lane] = int64(x, 0), x->var[m->t->col] = col;
    if (m->t->dot) x->var[m->t->dot] = int64(x, 0);
    forget_all(x);
    return emit_address(x, (int)r.id, buf_address(x->k, (int)r.id, r.arg));
}

/* ---- panels that come next ---- */
static int round_of(const Micro *m)
{
    if (!m->depths) return 1;
    return steps_at_once(m, m->depths - 1, m->x->k->axis.at[m->t->depth[m->depths - 1]].extent);
}

bool is_shift(const Micro *m, int axis) { return m->t->shift && expr_uses(m->x->k, m->t->shift, axis); }

static int64_t all_steps(const Micro *m) /* that read other words; 0: not known */
{
    const Kernel *k = m->x->k;
    int64_t n = m->depths > 0;
    for (int d = 0; d < m->depths; d++)
        if (!is_shift(m, m->t->depth[d])) n *= expr_constant(k, k->axis.at[m->t->depth[d]].extent, 0);
    return n;
}

/* Panels of codes are short: what is soon read lies in those after the panels at hand. */
int64_t bytes_until(const Micro *m)
{
    enum { SHORT = 4 * AHEAD };
    int64_t panel = all_steps(m) * LINE;
    return m->t->scale && panel > 0 && panel < SHORT ? panel * m->cols : AHEAD;
}

static void ask_ahead(Micro *m)
{
    Emit *x = m->x;
    for (unsigned j = 0; j < m->cols; j++) ask(m, bytes_on(x, right_line(m, m->col[j]), int64(x, bytes_until(m))), 1);
}

static bool panels_adjoin(Micro *m, int64_t bytes) /* each has so many */
{
    Kernel *k = m->x->k;
    ExprNode r = *expr_node(k, m->right);
    return step_is(k, buf_address(k, (int)r.id, r.arg), m->t->col, bytes / dtypes[r.type].bytes);
}

static int64_t bytes_ahead(Micro *m) /* from these panels to those that come next; 0: not known */
{
    Kernel *k = m->x->k;
    ExprNode r = *expr_node(k, m->right);
    Expr step = m->t->ahead ? expr_step(k, buf_address(k, (int)r.id, r.arg), m->t->ahead) : 0;
    return step ? expr_constant(k, step, 0) * dtypes[r.type].bytes : 0;
}

/* The first of several tiles with the same panels waits for memory, while the others have no use for it. So each of them asks for a part of the
 * panels that come next, a few lines in a round of the loop, into the second level cache: where the part before ended. */
static void plan_next(Micro *m, int round) /* steps of one */
{
    enum { MANY = 1 << 20 };
    Emit *x = m->x;
    int64_t steps = all_steps(m), bytes = steps * LINE * m->cols, passes = expr_constant(x->k, m->t->passes, MANY),
            ahead = bytes_ahead(m);
    m->lines = 0, m->round = round;
    if (!m->far || x->small || m->whole || m->sums || steps < round || passes < 2) return;
    if (ahead < bytes || ahead > PANELS_NEXT || !panels_adjoin(m, steps * LINE)) return;
    for (int d = 0; d < m->depths; d++) x->var[m->t->depth[d]] = int64(x, 0);
    m->panel = right_line(m, int64(x, 0));
    m->lines = (int)((m->round * (int64_t)m->cols + passes - 1) / passes);
    V from = LLVMBuildMul(x->b, emit_scalar(x, m->t->pass), int64(x, steps / m->round * m->lines * LINE), "");
    V some = LLVMBuildICmp(x->b, LLVMIntSLT, from, int64(x, bytes), ""); /* or all have been asked for: these are near */
    from = LLVMBuildAdd(x->b, from, int64(x, ahead), "");
    m->next = bytes_on(x, m->panel, select2(x, some, from, int64(x, 0)));
}

static void ask_next(Micro *m)
{
    Emit *x = m->x;
    V here = LLVMBuildPtrToInt(x->b, right_line(m, int64(x, 0)), x->i64, "");
    V done = LLVMBuildSub(x->b, here, LLVMBuildPtrToInt(x->b, m->panel, x->i64, ""), "");
    V at = LLVMBuildExactSDiv(x->b, LLVMBuildMul(x->b, done, int64(x, m->lines), ""), int64(x, m->round), "");
    for (int i = 0; i < m->lines; i++) ask(m, bytes_on(x, m->next, LLVMBuildAdd(x->b, at, int64(x, i * LINE), "")), 2);
}

V in_lanes(Micro *m, V mask, Expr e)
{
    Emit *x = m->x;
    x->lane = m->t->lane, x->lanes = m->lanes, x->mask = mask, x->var[m->t->lane] = int64(x, 0);
    V v = splat(x, emit_fresh(x, e), m->lanes);
    x->lane = 0, x->mask = NULL;
    return v;
}

/* Rows at constant distances are read from the first one, whose address optimisation does not look behind: it makes a pointer for each where the
 * loops around are not simple ones, and there are registers for few. */
static void find_rows(Micro *m)
{
    Emit *x = m->x;
    bool whole_lines = !m->t->line || m->rows % m->width == 0;
    m->base = NULL;
    if (!m->even || !whole_lines) return;
    if (m->t->dot) x->var[m->t->dot] = int64(x, 0);
    tile_row(x, m->t, m->row[0]);
    forget_all(x);
    V at = emit_address(x, m->left_buf, m->left_at);
    m->base = intrinsic(x, "llvm.launder.invariant.group", &x->ptr, 1, &at, 1);
}

static V row_address(Micro *m, int i) /* the axes of rows have its values already */
{
    Emit *x = m->x;
    forget_all(x);
    if (!m->base) return emit_address(x, m->left_buf, m->left_at);
    V by = int64(x, i % m->width * m->apart[0] + i / m->width * m->apart[1]);
    return LLVMBuildInBoundsGEP2(x->b, element_type(x, m->left_buf), m->base, &by, 1, "");
}

static V wide_at(Micro *m, int i, V step) /* row i's float, once narrow (widen_rows()) */
{
    Emit *x = m->x;
    V at = LLVMBuildAdd(x->b, LLVMBuildSub(x->b, step, m->wide_from, ""), int64(x, i * m->wide_steps), "");
    return LLVMBuildInBoundsGEP2(x->b, x->f32, m->wide, &at, 1, "");
}

static V left_scalar(Micro *m, int i)
{
    Emit *x = m->x;
    if (m->wide) return LLVMBuildLoad2(x->b, x->f32, wide_at(m, i, x->var[m->t->depth[m->depths - 1]]), "");
    tile_row(x, m->t, m->row[i]);
    if (!m->base) return emit_scalar(x, m->left);
    V v = LLVMBuildLoad2(x->b, element_type(x, m->left_buf), row_address(m, i), "");
    LLVMSetAlignment(v, (unsigned)dtypes[m->left_type].bytes);
    return v;
}

static void step_plain(Micro *m)
{
    Emit *x = m->x;
    DType acc = m->t->acc;
    V right[MAX_COLS];
    for (unsigned j = 0; j < m->cols; j++) {
        x->var[m->t->col] = m->col[j];
        right[j] = scalar_cast(x, m->right_type, acc, in_lanes(m, m->right_padded ? NULL : m->mask[j], m->right));
    }
    DType from = m->wide ? DT_f32 : m->left_type;
    if (!m->wide) find_rows(m);
    for (int i = 0; i < m->rows; i++) {
        V one = left_scalar(m, i); /* floats are widened as lanes: a broadcasting load and one conversion */
        if (dtype_is_float(from)) one = splat(x, one, m->lanes);
        V left = splat(x, scalar_cast(x, from, acc, one), m->lanes);
        for (unsigned j = 0; j < m->cols; j++) {
            V *a = &m->acc[i][j][0];
            *a = acc == DT_f32 ? scalar_fma(x, left, right[j], *a)
                               : LLVMBuildAdd(x->b, *a, LLVMBuildMul(x->b, left, right[j], ""), "");
        }
    }
}

/* One by one; those past the end of a partial word are 0 (which makes their products 0) and read the first again. */
static V left_elements(Micro *m)
{
    Emit *x = m->x;
    V word = LLVMConstInt(x->i32, 0, 0), zero = word;
    for (int b = 0; b < m->word; b++) {
        V exists = m->rest && b ? LLVMBuildICmp(x->b, LLVMIntSLT, int64(x, b), m->rest, "") : NULL;
        x->var[m->t->dot] = exists ? select2(x, exists, int64(x, b), int64(x, 0)) : int64(x, b);
        V v = LLVMBuildZExt(x->b, emit_scalar(x, m->left), x->i32, "");
        if (exists) v = select2(x, exists, v, zero);
        word = LLVMBuildOr(x->b, word, LLVMBuildShl(x->b, v, LLVMConstInt(x->i32, (unsigned)(b * 32 / m->word), 0), ""),
                           "");
    }
    return word;
}

static V left_word(Micro *m, int i)
{
    Emit *x = m->x;
    if (m->rest || !m->adjacent) return left_elements(m);
    x->var[m->t->dot] = int64(x, 0);
    V v = LLVMBuildLoad2(x->b, x->i32, row_address(m, i), "");
    LLVMSetAlignment(v, 1);
    return v;
}

static V word_cast(Micro *m, V words, T element, unsigned per_word)
{
    return LLVMBuildBitCast(m->x->b, words, LLVMVectorType(element, m->lanes / m->parts * per_word), "");
}

/* The first of two elements in every lane's word, zero as the second: a broadcasting load under a mask. */
static V left_half(Micro *m)
{
    Emit *x = m->x;
    V keep[2 * DOT_LANES];
    unsigned lanes = m->lanes / m->parts;
    for (unsigned i = 0; i < 2 * lanes; i++) keep[i] = LLVMConstInt(x->i16, i % 2 ? 0 : UINT16_MAX, 0);
    x->var[m->t->dot] = int64(x, 0);
    V one = splat(x, emit_scalar(x, m->left), 2 * lanes);
    return word_cast(m, LLVMBuildAnd(x->b, one, LLVMConstVector(keep, 2 * lanes), ""), x->i32, 1);
}

/* The instruction that sums a word's products, or NULL: by halves. Of bytes, those without a sign come first. */
static const char *dot_instruction(const Micro *m)
{
    if (!target_sums_words(m->x->target, m->left_type, m->right_type)) return NULL;
    if (m->left_type == DT_bf16) return "llvm.x86.avx512bf16.dpbf16ps.512";
    return m->parts == 1 ? "llvm.x86.avx512.vpdpbusd.512" : "llvm.x86.avx512.vpdpbusd.256";
}

/* The even or odd elements of words: bytes widened to 16 bits, bf16 to f32. */
static V half_words(Micro *m, V words, DType t, bool odd)
{
    LLVMBuilderRef b = m->x->b;
    if (t == DT_bf16) {
        T type = LLVMTypeOf(words);
        V half = odd ? LLVMBuildAnd(b, words, int_of(type, -65536), "") : LLVMBuildShl(b, words, int_of(type, 16), "");
        return word_cast(m, half, m->x->f32, 1);
    }
    V h = word_cast(m, words, m->x->i16, 2), eight = int_of(LLVMTypeOf(h), 8);
    if (t == DT_u8) return odd ? LLVMBuildLShr(b, h, eight, "") : LLVMBuildAnd(b, h, int_of(LLVMTypeOf(h), 255), "");
    return LLVMBuildAShr(b, odd ? h : LLVMBuildShl(b, h, eight, ""), eight, "");
}

static V pair_sums(Micro *m, V a, V b) /* i32 sums of two products of i16 */
{
    Emit *x = m->x;
    static const char *const name[MAX_PARTS + 1] = {NULL, "llvm.x86.avx512.pmaddw.d.512", "llvm.x86.avx2.pmadd.wd",
                                                    NULL, "llvm.x86.sse2.pmadd.wd"};
    if (!strcmp(x->target->arch, "x86_64")) return intrinsic(x, name[m->parts], NULL, 0, (V[]){a, b}, 2);
    V sum = NULL;
    T wide = LLVMVectorType(x->i32, m->lanes / m->parts);
    for (int odd = 0; odd < 2; odd++) {
        V h[2] = {LLVMBuildBitCast(x->b, a, wide, ""), LLVMBuildBitCast(x->b, b, wide, "")}, sixteen = int_of(wide, 16);
        for (int i = 0; i < 2; i++)
            h[i] = LLVMBuildAShr(x->b, odd ? h[i] : LLVMBuildShl(x->b, h[i], sixteen, ""), sixteen, "");
        V product = LLVMBuildMul(x->b, h[0], h[1], "");
        sum = sum ? LLVMBuildAdd(x->b, sum, product, "") : product;
    }
    return sum;
}

/* Are there registers for so many more vectors beside the sums of a block? */
bool fits_beside(const Micro *m, int more)
{
    return m->rows * (int)(m->cols * m->parts) + more <= m->x->target->registers;
}

/* For each word of codes, beside those of one code in each byte. */
static bool keeps_words(const Micro *m)
{
    enum { BESIDE = 6 }; /* halves of a row, ones, masks, what is between */
    return fits_beside(m, 2 * (int)(m->cols * m->parts) + BESIDE);
}

static V right_words(Micro *m, unsigned part)
{
    Emit *x = m->x;
    unsigned lanes = m->lanes / m->parts;
    V p = emit_address(x, m->right_buf, m->right_at), by = int64(x, (int64_t)part * lanes * WORD_BYTES);
    V v = LLVMBuildLoad2(x->b, LLVMVectorType(x->i32, lanes), LLVMBuildInBoundsGEP2(x->b, x->i8, p, &by, 1, ""), "");
    LLVMSetVolatile(v, m->t->shift && !keeps_words(m)); /* else each code of a byte loads it anew */
    LLVMSetAlignment(v, 1);
    return v;
}

/* One code without a sign in each byte: what a word has above its bytes' bits is masked. */
static V unpacked(Micro *m, V words)
{
    enum { SIGN = 128 };
    Emit *x = m->x;
    T type = LLVMTypeOf(words);
    if (m->flips) return LLVMBuildXor(x->b, words, int_of(type, (int64_t)SIGN * EACH_BYTE), "");
    if (!m->t->mask) return words;
    if (m->t->shift)
        words = LLVMBuildLShr(x->b, words, splat(x, emit_scalar(x, m->t->shift), LLVMGetVectorSize(type)), "");
    return LLVMBuildAnd(x->b, words, int_of(type, m->t->mask * EACH_BYTE), "");
}

V right_panel(Micro *m, unsigned j, unsigned part)
{
    Emit *x = m->x;
    x->var[m->t->lane] = x->var[m->t->dot] = int64(x, 0), x->var[m->t->col] = m->col[j];
    forget_all(x);
    return unpacked(m, right_words(m, part));
}

static V left_row(Micro *m, int i)
{
    tile_row(m->x, m->t, m->row[i]);
    if (m->rest && m->word == 2) return left_half(m);
    return splat(m->x, left_word(m, i), m->lanes / m->parts); /* a broadcasting load */
}

/* Two products of a byte and a code of few bits fit 16 bits: one instruction adds them, a second one the two sums of a word. */
static V code_sums(Micro *m, V codes, V left)
{
    static const char *const name[MAX_PARTS + 1] = {NULL, "llvm.x86.avx512.pmaddubs.w.512",
                                                    "llvm.x86.avx2.pmadd.ub.sw"};
    V pairs = intrinsic(m->x, name[m->parts], NULL, 0, (V[]){codes, left}, 2);
    return pair_sums(m, pairs, int_of(LLVMTypeOf(pairs), 1));
}

static V with_word(Micro *m, const char *name, V sum, V left, V right)
{
    bool swap = m->left_type == DT_i8;
    if (!name) return LLVMBuildAdd(m->x->b, sum, code_sums(m, right, left), "");
    return intrinsic(m->x, name, NULL, 0, (V[]){sum, swap ? right : left, swap ? left : right}, 3);
}

/* Row after row: a row's load stays beside its use, or the broadcasts of all rows would want registers at once. name NULL: codes of few bits, by pairs. */
static void step_words(Micro *m, const char *name)
{
    Emit *x = m->x;
    T element = m->left_type == DT_bf16 ? LLVMBFloatTypeInContext(x->c) : x->i8;
    unsigned word = (unsigned)m->word;
    V right[MAX_COLS][MAX_PARTS];
    for (unsigned j = 0; j < m->cols; j++)
        for (unsigned p = 0; p < m->parts; p++) right[j][p] = word_cast(m, right_panel(m, j, p), element, word);
    for (int i = 0; i < m->rows; i++) {
        V left = word_cast(m, left_row(m, i), element, word);
        for (unsigned j = 0; j < m->cols; j++)
            for (unsigned p = 0; p < m->parts; p++)
                m->acc[i][j][p] = with_word(m, name, m->acc[i][j][p], left, right[j][p]);
    }
}

/* Both sides are needed as even and odd halves; the side that needs fewer registers is kept, the other one streamed. */
static void step_halves(Micro *m)
{
    unsigned rights = m->cols * m->parts, lefts = (unsigned)m->rows;
    bool keep_right = rights <= lefts;
    unsigned kept = keep_right ? rights : lefts, streamed = keep_right ? lefts : rights;
    int halves = m->rest && m->word == 2 ? 1 : 2; /* the other half of a partial word is zero on the left */
    V keep[MAX_ROWS][2], now[2];
    for (unsigned a = 0; a < kept; a++) {
        V v = keep_right ? right_panel(m, a / m->parts, a % m->parts) : left_row(m, (int)a);
        for (int odd = 0; odd < halves; odd++)
            keep[a][odd] = half_words(m, v, keep_right ? m->right_type : m->left_type, odd);
    }
    for (unsigned b = 0; b < streamed; b++) {
        V v = keep_right ? left_row(m, (int)b) : right_panel(m, b / m->parts, b % m->parts);
        for (int odd = 0; odd < halves; odd++)
            now[odd] = half_words(m, v, keep_right ? m->left_type : m->right_type, odd);
        for (unsigned a = 0; a < kept; a++) {
            unsigned i = keep_right ? b : a, r = keep_right ? a : b;
            V *acc = &m->acc[i][r / m->parts][r % m->parts];
            for (int odd = 0; odd < halves; odd++)
                *acc = m->left_type == DT_bf16 ? scalar_fma(m->x, now[odd], keep[a][odd], *acc)
                                               : LLVMBuildAdd(m->x->b, *acc, pair_sums(m, now[odd], keep[a][odd]), "");
        }
    }
}

static void step_dot(Micro *m)
{
    const char *name = dot_instruction(m);
    find_rows(m);
    if (name || (m->t->mask && target_pairs_bytes(m->x->target))) step_words(m, name);
    else step_halves(m);
}

/* ---- narrow rows ---- */
/* Rows of f16 or less would be widened in each step of each tile, which takes as long as to multiply them: they are widened before, in lanes. Of bf16 it is
 * one shift. Yields the most steps of a block of the sum; 0: rows stay as they are. */
static int steps_widened(const Micro *m, int d, Expr extent)
{
    enum { MOST_FLOATS = 4096, LEAST_STEPS = 16 };
    Kernel *k = m->x->k;
    int64_t n = INT64_MAX;
    if (m->t->dot || m->t->acc != DT_f32 || m->rows < 2 || d != m->depths - 1 || !m->left_at || m->x->small) return 0;
    if (!dtype_is_float(m->left_type) || dtypes[m->left_type].bits >= 32 || m->left_type == DT_bf16) return 0;
    if (!step_is(k, m->left_at, m->t->depth[d], 1) || (expr_is_index(k, extent, &n) && n < LEAST_STEPS)) return 0;
    n = n < m->t->block ? n : m->t->block;
    return n * m->rows <= MOST_FLOATS ? (int)n : 0;
}

static void widen_some(Micro *m, Loop *steps, unsigned lanes)
{
    Emit *x = m->x;
    loop_body(x, steps);
    x->var[m->t->depth[m->depths - 1]] = steps->i;
    for (int i = 0; i < m->rows; i++) {
        tile_row(x, m->t, m->row[i]);
        forget_all(x);
        T narrow = element_type(x, m->left_buf), t = lanes > 1 ? LLVMVectorType(narrow, lanes) : narrow;
        V v = LLVMBuildLoad2(x->b, t, emit_address(x, m->left_buf, m->left_at), "");
        LLVMSetAlignment(v, (unsigned)dtypes[m->left_type].bytes);
        V store = LLVMBuildStore(x->b, scalar_cast(x, m->left_type, DT_f32, v), wide_at(m, i, steps->i));
        LLVMSetAlignment(store, sizeof(float));
    }
    loop_close(x, steps, lanes);
}

static void widen_rows(Micro *m, V from, V to)
{
    Emit *x = m->x;
    V some = LLVMBuildAnd(x->b, LLVMBuildSub(x->b, to, from, ""), int64(x, -DOT_LANES), "");
    V whole = LLVMBuildAdd(x->b, from, some, "");
    m->wide_from = from;
    Loop vectors = loop_head(x, from, whole);
    widen_some(m, &vectors, DOT_LANES);
    Loop rest = loop_head(x, whole, to);
    widen_some(m, &rest, 1);
}

/* ---- the loops of the sum, accumulators as phis ---- */
/* The last word of a sum that does not divide, where there is one: put together from elements. */
static void partial_step(Micro *m, int axis)
{
    Emit *x = m->x;
    Kernel *k = x->k;
    Expr extent = k->axis.at[m->whole].extent, word = expr_index(k, m->word);
    Expr rest = expr_mod(k, extent, word);
    if (expr_is(k, rest, 0)) return;
    V before[MAX_ROWS][MAX_COLS][MAX_PARTS];
    memcpy(before, m->acc, sizeof before);
    x->var[axis] = emit_scalar(x, expr_div(k, extent, word));
    V any = emit_scalar(x, expr_lt(k, expr_index(k, 0), rest));
    LLVMBasicBlockRef in[2] = {LLVMGetInsertBlock(x->b), block_new(x, "elements")}, done = block_new(x, "summed");
    LLVMBuildCondBr(x->b, any, in[1], done);
    LLVMPositionBuilderAtEnd(x->b, in[1]);
    m->rest = emit_scalar(x, rest);
    step_dot(m);
    m->rest = NULL;
    in[1] = LLVMGetInsertBlock(x->b);
    LLVMBuildBr(x->b, done);
    LLVMPositionBuilderAtEnd(x->b, done);
    EACH_ACC(m, i, j, p)
    {
        V phi = LLVMBuildPhi(x->b, m->acc_type, "acc"), v[2] = {before[i][j][p], m->acc[i][j][p]};
        LLVMAddIncoming(phi, v, in, 2);
        m->acc[i][j][p] = phi;
    }
}

/* Loads stay in their step, there are no registers for more. A fence within a thread is no instruction. */
static void keep_loads(Emit *x) { LLVMBuildFence(x->b, LLVMAtomicOrderingAcquireRelease, true, ""); }

static void sum_range(Micro *m, int d, V from, V to, int steps)
{
    Emit *x = m->x;
    int axis = m->t->depth[d];
    V phi[MAX_ROWS][MAX_COLS][MAX_PARTS];
    if (m->wide) widen_rows(m, from, to);
    Loop l = loop_head(x, from, to);
    EACH_ACC(m, i, j, p)
    {
        phi[i][j][p] = LLVMBuildPhi(x->b, m->acc_type, "acc");
        LLVMAddIncoming(phi[i][j][p], &m->acc[i][j][p], &l.from, 1);
        m->acc[i][j][p] = phi[i][j][p];
    }
    loop_body(x, &l);
    for (int i = 0; i < steps; i++) {
        if (i) keep_loads(x);
        x->var[axis] = LLVMBuildNSWAdd(x->b, l.i, int64(x, i), "");
        if (!i && m->lines && d == m->depths - 1) ask_next(m);
        depth_loop(m, d + 1);
    }
    loop_close(x, &l, steps);
    EACH_ACC(m, i, j, p)
    {
        LLVMAddIncoming(phi[i][j][p], &m->acc[i][j][p], &l.body, 1);
        m->acc[i][j][p] = phi[i][j][p];
    }
}

V total_at(const Micro *m, V totals, int i, unsigned j, unsigned p)
{
    V at = int64(m->x, (i * (int)m->cols + (int)j) * (int)m->parts + (int)p);
    return LLVMBuildInBoundsGEP2(m->x->b, m->total_type, totals, &at, 1, "");
}

/* The totals of a long sum. Volatile, or they would be promoted to registers, of which the tile has none left. */
static void total_store(Micro *m, V totals, int i, unsigned j, V v)
{
    V store = LLVMBuildStore(m->x->b, v, total_at(m, totals, i, j, 0));
    LLVMSetVolatile(store, 1), LLVMSetAlignment(store, SCRATCH_ALIGN);
}

static V total_load(Micro *m, V totals, int i, unsigned j)
{
    V v = LLVMBuildLoad2(m->x->b, m->acc_type, total_at(m, totals, i, j, 0), "");
    LLVMSetVolatile(v, 1), LLVMSetAlignment(v, SCRATCH_ALIGN);
    return v;
}

static void add_start(Micro *m)
{
    Emit *x = m->x;
    V start[MAX_COLS];
    for (unsigned j = 0; j < m->cols; j++)
        x->var[m->t->col] = m->col[j], start[j] = in_lanes(m, m->mask[j], m->t->start);
    EACH_ACC(m, i, j, p) m->acc[i][j][p] = LLVMBuildFAdd(x->b, m->acc[i][j][p], start[j], "");
}

/* A float sum in blocks, each from zero and added to the total: a load, an addition and a store per accumulator and block. */
static void sum_blocks(Micro *m, int d, Expr extent, int steps)
{
    Emit *x = m->x;
    Kernel *k = x->k;
    V end = emit_scalar(x, extent), step = int64(x, m->t->block);
    V first = emit_scalar(x, expr_prim(k, P_min, extent, expr_index(k, m->t->block), 0));
    V totals = LLVMBuildAlloca(x->entry, LLVMArrayType2(m->acc_type, (uint64_t)m->rows * m->cols), "totals");
    LLVMSetAlignment(totals, SCRATCH_ALIGN);
    sum_range(m, d, int64(x, 0), first, steps);
    if (m->t->start) add_start(m);
    EACH_ACC(m, i, j, p) total_store(m, totals, i, j, m->acc[i][j][p]);
    Loop l = loop_head(x, step, end);
    loop_body(x, &l);
    V next = LLVMBuildNSWAdd(x->b, l.i, step, ""),
      to = select2(x, LLVMBuildICmp(x->b, LLVMIntSLT, next, end, ""), next, end);
    EACH_ACC(m, i, j, p) m->acc[i][j][p] = LLVMConstNull(m->acc_type);
    sum_range(m, d, l.i, to, steps);
    EACH_ACC(m, i, j, p)
    total_store(m, totals, i, j, LLVMBuildFAdd(x->b, total_load(m, totals, i, j), m->acc[i][j][p], ""));
    loop_close(x, &l, m->t->block);
    EACH_ACC(m, i, j, p) m->acc[i][j][p] = total_load(m, totals, i, j);
}

static void sum_loop(Micro *m, int d, Expr from, Expr extent)
{
    int64_t n;
    bool floats = !m->t->dot && m->t->acc == DT_f32, short_sum = expr_is_index(m->x->k, extent, &n) && n <= m->t->block;
    int steps = steps_at_once(m, d, extent);
    m->wide_steps = steps_widened(m, d, extent);
    if (m->wide_steps) {
        uint64_t room = (uint64_t)m->rows * (uint64_t)m->wide_steps;
        m->wide = LLVMBuildAlloca(m->x->entry, LLVMArrayType2(m->x->f32, room), "wide");
        LLVMSetAlignment(m->wide, SCRATCH_ALIGN);
    }
    if (floats && !short_sum && d == m->depths - 1) sum_blocks(m, d, extent, steps);
    else sum_range(m, d, emit_scalar(m->x, from), emit_scalar(m->x, extent), steps);
    m->wide = NULL;
}

/* The codes of a byte, one after the other. */
static void shifted_steps(Micro *m, int d, int64_t n)
{
    bool far = m->far;
    for (int64_t i = 0; i < n; i++) {
        m->x->var[m->t->depth[d]] = int64(m->x, i), m->far = far && !i;
        depth_loop(m, d + 1);
    }
    m->far = far;
}

void depth_loop(Micro *m, int d)
{
    Emit *x = m->x;
    Kernel *k = x->k;
    int64_t codes;
    if (d == m->depths) {
        if (m->far) ask_ahead(m);
        if (m->t->dot) step_dot(m);
        else step_plain(m);
        return;
    }
    int axis = m->t->depth[d];
    bool partial = m->whole && k->axis.at[axis].parent == m->whole, inner = d == m->depths - 1;
    Expr extent = partial ? whole_words(m) : k->axis.at[axis].extent;
    Expr from = inner && m->sums ? tiles_words(x, &m->in_tiles) : expr_index(k, 0);
    if (!partial && expr_is(k, extent, 1) && expr_is(k, from, 0)) {
        x->var[axis] = int64(x, 0);
        depth_loop(m, d + 1);
        return;
    }
    if (is_shift(m, axis) && expr_is_index(k, extent, &codes)) shifted_steps(m, d, codes);
    else if (from != extent) sum_loop(m, d, from, extent);
    if (partial) partial_step(m, axis);
}

static bool is_summed(Micro *m) /* by tiles nothing is left to add to what they hold */
{
    Kernel *k = m->x->k;
    if (tiles_words(m->x, &m->in_tiles) != m->in_tiles.words) return false;
    return !m->whole || expr_is(k, expr_mod(k, k->axis.at[m->whole].extent, expr_index(k, m->word)), 0);
}

V joined(Emit *x, V *part, unsigned n) /* vectors, a power of two of them, as one */
{
    V all[DOT_LANES];
    memcpy(all, part, n * sizeof *part);
    for (unsigned lanes = LLVMGetVectorSize(LLVMTypeOf(*part)); n > 1; n /= 2, lanes *= 2)
        for (unsigned p = 0; p < n / 2; p++) {
            V index[64];
            for (unsigned i = 0; i < lanes * 2; i++) index[i] = LLVMConstInt(x->i32, i, 0);
            all[p] = LLVMBuildShuffleVector(x->b, all[2 * p], all[2 * p + 1], LLVMConstVector(index, lanes * 2), "");
        }
    return all[0];
}

/* ---- results ---- */
Branch branch_open(Emit *x, V cond)
{
    Branch b = {block_new(x, "then"), block_new(x, "done")};
    LLVMBuildCondBr(x->b, cond, b.then, b.done);
    LLVMPositionBuilderAtEnd(x->b, b.then);
    return b;
}

void branch_close(Emit *x, Branch b)
{
    LLVMBuildBr(x->b, b.done);
    LLVMPositionBuilderAtEnd(x->b, b.done);
}

/* Sums of words begin with the bias where an instruction sums them; others get it when they are done, as the formula says. */
static bool begins_with_bias(const Micro *m)
{
    return m->t->dot && m->t->start && !m->sums && m->left_type == DT_bf16 && dot_instruction(m);
}

static V with_start(Micro *m, V sum, V col, V mask)
{
    Emit *x = m->x;
    if (!m->t->dot || !m->t->start || begins_with_bias(m)) return sum;
    x->var[m->t->col] = col;
    return LLVMBuildFAdd(x->b, sum, in_lanes(m, mask, m->t->start), "");
}

static V result(Micro *m, int i, unsigned j)
{
    return with_start(m, joined(m->x, m->acc[i][j], m->parts), m->col[j], m->mask[j]);
}

/* The lanes of a panel from `first` on, as many as the sum has. */
static void store_lanes(Micro *m, V sum, V col, V first)
{
    Emit *x = m->x;
    const Tile *t = m->t;
    unsigned lanes = LLVMGetVectorSize(LLVMTypeOf(sum));
    x->var[t->col] = col, x->var[t->lane] = first;
    x->lane = t->lane, x->lanes = lanes;
    Branch b = {NULL, NULL};
    if (t->lane_guard) {
        x->mask = splat(x, emit_fresh(x, t->lane_guard), lanes);
        b = branch_open(x, any_lane(x, x->mask));
    }
    x->it = sum;
    emit_store(x, m->s->buf, m->s->at, emit_fresh(x, t->epilogue));
    x->it = NULL, x->mask = NULL, x->lane = 0;
    if (t->lane_guard) branch_close(x, b);
}

static void store_panel(Micro *m, V sum, V col) { store_lanes(m, sum, col, int64(m->x, 0)); }

static void store_rows(Micro *m, V first)
{
    Emit *x = m->x;
    for (int i = 0; i < m->rows; i++) {
        tile_row(x, m->t, LLVMBuildAdd(x->b, first, int64(x, i), ""));
        Branch b = {NULL, NULL};
        if (!m->fixed_row) b = branch_open(x, m->valid[i]);
        for (unsigned j = 0; j < m->cols; j++) store_panel(m, result(m, i, j), int64(x, j));
        if (!m->fixed_row) branch_close(x, b);
    }
}

/* ---- results one by one: the sums wait in memory, and what is done to each is written once ---- */
static V run_row(Micro *m, V row) /* its place among what tiles have summed, gaps between lines included */
{
    LLVMBuilderRef b = m->x->b;
    const TileSum *s = &m->in_tiles;
    int gap = tiles_go_through(s) ? s->pitch - s->width : 0;
    V line = LLVMBuildUDiv(b, row, int64(m->x, s->width), "");
    return gap ? LLVMBuildAdd(b, row, LLVMBuildMul(b, line, int64(m->x, gap), ""), "") : row;
}

static int run_rows(const Micro *m) { return tiles_go_through(&m->in_tiles) ? m->in_tiles.run : m->rows; }

static V sum_at(Micro *m, V row, V col, V part)
{
    LLVMBuilderRef b = m->x->b;
    V at = m->sums ? LLVMBuildAdd(b, LLVMBuildMul(b, run_row(m, row), int64(m->x, m->cols), ""), col, "")
                   : LLVMBuildAdd(b, LLVMBuildMul(b, col, int64(m->x, m->rows), ""), row, "");
    at = LLVMBuildAdd(b, LLVMBuildMul(b, at, int64(m->x, m->parts), ""), part, "");
    return LLVMBuildInBoundsGEP2(b, m->acc_type, m->waiting, &at, 1, "");
}

static void sums_put(Micro *m)
{
    Emit *x = m->x;
    EACH_ACC(m, i, j, p)
    {
        V store = LLVMBuildStore(x->b, m->acc[i][j][p], sum_at(m, int64(x, i), int64(x, j), int64(x, p)));
        LLVMSetAlignment(store, SCRATCH_ALIGN / m->parts);
    }
}

static V sum_take(Micro *m, V row, V col)
{
    Emit *x = m->x;
    T all = LLVMVectorType(LLVMGetElementType(m->acc_type), m->lanes);
    V v = LLVMBuildLoad2(x->b, all, sum_at(m, row, col, int64(x, 0)), "");
    LLVMSetAlignment(v, SCRATCH_ALIGN / m->parts);
    return v;
}

static V panel_mask(Micro *m, V col) /* of one that exists or reads the first */
{
    m->x->var[m->t->col] = col;
    return m->t->lane_guard ? in_lanes(m, NULL, m->t->lane_guard) : NULL;
}

/* Where little code is wanted, the lanes of a register at a time. */
static void store_by_registers(Micro *m, V row, V col)
{
    Emit *x = m->x;
    unsigned lanes = (unsigned)x->target->lanes;
    T some = LLVMVectorType(LLVMGetElementType(m->acc_type), lanes), element = LLVMGetElementType(some);
    Loop parts = loop_head(x, int64(x, 0), int64(x, m->lanes));
    loop_body(x, &parts), loop_runs(x, &parts, m->lanes / lanes);
    V at = LLVMBuildInBoundsGEP2(x->b, element, sum_at(m, row, col, int64(x, 0)), &parts.i, 1, "");
    V sum = LLVMBuildLoad2(x->b, some, at, "");
    LLVMSetAlignment(sum, lanes * (unsigned)sizeof(float));
    store_lanes(m, sum, col, parts.i);
    loop_close(x, &parts, lanes);
}

static bool stores_by_registers(const Micro *m)
{
    unsigned lanes = (unsigned)m->x->target->lanes;
    return m->x->small && lanes < m->lanes && m->lanes % lanes == 0 && !(m->t->dot && m->t->start);
}

static void store_waiting(Micro *m, V first)
{
    Emit *x = m->x;
    Loop cols = loop_head(x, int64(x, 0), int64(x, m->cols));
    loop_body(x, &cols), loop_runs(x, &cols, m->cols);
    Loop rows = loop_head(x, int64(x, 0), int64(x, m->rows));
    loop_body(x, &rows), loop_runs(x, &rows, m->rows);
    V row = LLVMBuildAdd(x->b, first, rows.i, "");
    tile_row(x, m->t, row);
    Branch b = {NULL, NULL};
    if (!m->fixed_row) b = branch_open(x, emit_scalar(x, m->t->row_guard));
    if (stores_by_registers(m)) {
        store_by_registers(m, rows.i, cols.i);
    } else {
        V sum = with_start(m, sum_take(m, rows.i, cols.i), cols.i, panel_mask(m, cols.i));
        tile_row(x, m->t, row);
        store_panel(m, sum, cols.i);
    }
    if (!m->fixed_row) branch_close(x, b);
    loop_close(x, &rows, 1);
    loop_close(x, &cols, 1);
}

static bool scatters(const Micro *m) /* lane by lane */
{
    Kernel *k = m->x->k;
    return !step_is(k, buf_address(k, m->s->buf, m->s->at), m->t->lane, 1);
}

/* A copy of the epilogue for every sum of the tile is most of a kernel's code where it rounds, calls functions or scatters. To put a sum down and
 * take it up again is little beside such an epilogue and many steps, and in the few rows that are left of whole tiles. Tiles take so few cycles for
 * a step that their steps hide nothing. */
static bool stores_one_by_one(const Micro *m)
{
    enum { WORTH = 4, ANY_STEPS = 64, MUCH = 52, FUNCTION = 16 };
    const Kernel *k = m->x->k;
    int64_t steps = 1, cost = expr_cost(k, m->t->epilogue) + (scatters(m) ? (int64_t)m->lanes : 0);
    for (int d = 0; d < m->depths; d++) steps *= expr_constant(k, k->axis.at[m->t->depth[d]].extent, ANY_STEPS);
    bool rest = !m->fixed_row && m->rows > 1;
    if (m->sums) return cost >= FUNCTION || !m->fixed_row;
    return m->rows * (int)m->cols > 1 && cost >= WORTH && (m->x->small || rest || steps + 2 * cost >= MUCH);
}

/* ---- the tile ---- */
static void panels(Micro *m)
{
    Emit *x = m->x;
    const Tile *t = m->t;
    x->var[t->lane] = int64(x, 0);
    for (unsigned j = 0; j < m->cols; j++) {
        x->var[t->col] = m->col[j] = int64(x, j);
        if (!t->lane_guard) continue;
        if (j) m->col[j] = x->var[t->col] = select2(x, emit_scalar(x, t->lane_guard), m->col[j], int64(x, 0));
        m->mask[j] = in_lanes(m, NULL, t->lane_guard);
    }
}

static V summed(Micro *m, V row, unsigned j) /* by the tiles; always one register */
{
    Emit *x = m->x;
    V at = LLVMBuildMul(x->b, run_row(m, LLVMBuildSub(x->b, row, m->sums_row, "")), int64(x, m->cols), "");
    at = LLVMBuildAdd(x->b, at, int64(x, j), "");
    V v = LLVMBuildLoad2(x->b, m->acc_type, LLVMBuildInBoundsGEP2(x->b, m->acc_type, m->sums, &at, 1, ""), "");
    LLVMSetAlignment(v, SCRATCH_ALIGN);
    return v;
}

static void begin(Micro *m)
{
    V start[MAX_COLS];
    for (unsigned j = 0; j < m->cols; j++) {
        m->x->var[m->t->col] = m->col[j];
        start[j] = begins_with_bias(m) ? in_lanes(m, m->mask[j], m->t->start) : LLVMConstNull(m->acc_type);
    }
    EACH_ACC(m, i, j, p) m->acc[i][j][p] = m->sums ? summed(m, m->row[i], j) : start[j];
}

static void block(Micro *m, V first)
{
    Emit *x = m->x;
    for (int i = 0; i < m->rows; i++) {
        m->row[i] = LLVMBuildAdd(x->b, first, int64(x, i), "");
        tile_row(x, m->t, m->row[i]);
        if (m->fixed_row) continue;
        m->valid[i] = emit_scalar(x, m->t->row_guard);
        m->row[i] = select2(x, m->valid[i], m->row[i], first);
    }
    plan_next(m, round_of(m));
    begin(m);
    bool summed_all = m->sums && is_summed(m);
    if (m->dots) sum_dots(m);
    else if (!summed_all && m->t->scale) sum_codes(m);
    else if (!summed_all) depth_loop(m, 0);
    if (!stores_one_by_one(m)) {
        store_rows(m, first);
        return;
    }
    sums_put(m);
    store_waiting(m, first);
}

static void partial_block(Micro *m, V first, int n)
{
    Micro part = *m;
    part.rows = n;
    block(&part, first);
}

static bool has_one_form(const Micro *m) { return m->x->k->axis.at[m->x->k->axis.at[m->t->row].parent].guarded; }

/* Up to n rows, the first of which exists. One alone (a matrix times a vector) does not pay for the missing ones, unless the schedule wants one form. */
static void few_rows(Micro *m, V first, int n)
{
    Emit *x = m->x;
    if (m->fixed_row || n == 1 || m->sums || has_one_form(m)) {
        partial_block(m, first, n);
        return;
    }
    tile_row(x, m->t, LLVMBuildAdd(x->b, first, int64(x, 1), ""));
    V more = emit_scalar(x, m->t->row_guard);
    Branch several = branch_open(x, more);
    partial_block(m, first, n);
    branch_close(x, several);
    Branch one = branch_open(x, LLVMBuildNot(x->b, more, ""));
    tile_row(x, m->t, first);
    partial_block(m, first, 1);
    branch_close(x, one);
}

/* Rows [from, from + rows) in blocks of n and then of one. */
void blocks(Micro *m, V from, int rows, int n)
{
    Emit *x = m->x;
    for (n = rows < n ? rows : n; rows > 0; n = 1) {
        int whole = rows / n * n;
        V to = LLVMBuildAdd(x->b, from, int64(x, whole), "");
        Loop l = loop_head(x, from, to);
        loop_body(x, &l);
        tile_row(x, m->t, l.i);
        Branch b = {NULL, NULL};
        if (!m->fixed_row) b = branch_open(x, emit_scalar(x, m->t->row_guard));
        few_rows(m, l.i, n);
        if (!m->fixed_row) branch_close(x, b);
        loop_close(x, &l, n);
        rows -= whole, from = to;
    }
}

/* ---- tile registers ---- */
/* Rows whose epilogues are written out one after the other: a divisor, so that one loop does all. */
static int rows_at_once(int rows)
{
    int n = TAIL_ROWS;
    while (rows % n) n--;
    return n;
}

/* Results of a call are finished while the next one's products are summed: tile registers work beside vector registers, but a processor
 * looks only some hundred instructions ahead. The sums wait in memory, of two calls by turns, with the values of the axes around the call;
 * what the last call leaves is finished when the kernel ends. */
struct Pending {
    Micro m;
    V sums, at, bytes; /* memory of two calls; offset of the sums that wait; from one call's to the other's */
    V next;            /* the first row that is not finished */
    V *var, *constant; /* per axis: memory of its value, or the constant it is; NULL: not needed */
    int64_t each;      /* rows for each step of the products */
};

static int64_t tile_steps(Micro *m) /* -1: not known */
{
    Kernel *k = m->x->k;
    int64_t steps = 1, n;
    for (int d = 0; d < m->depths; d++) {
        bool inner = d == m->depths - 1;
        if (m->t->depth[d] == m->in_tiles.turn) continue;
        if (!expr_is_index(k, inner ? tiles_words(m->x, &m->in_tiles) : k->axis.at[m->t->depth[d]].extent, &n))
            return -1;
        steps *= inner ? n / m->x->tiles.words : n;
    }
    return steps;
}

static bool may_wait(Micro *m) /* nothing of the kernel reads what is stored late */
{
    return m->x->k->stage.n == 1 && m->fixed_row && is_summed(m) && tile_steps(m) > 0;
}

static bool is_needed(const Micro *m, int axis) /* to finish a row, beside the axes of the tile */
{
    const Kernel *k = m->x->k;
    const Tile *t = m->t;
    if (axis == t->line || axis == t->row || axis == t->col || axis == t->lane) return false;
    bool needed = expr_uses(k, t->epilogue, axis) || expr_uses(k, t->lane_guard, axis) || expr_uses(k, t->start, axis);
    for (int d = 0; d < k->buf.at[m->s->buf].rank; d++) needed = needed || expr_uses(k, m->s->at[d], axis);
    return needed;
}

static struct Pending *pending_new(Micro *m)
{
    Emit *x = m->x;
    struct Pending *p = NEW(x->mem, struct Pending);
    uint64_t sums = (uint64_t)run_rows(m) * m->cols;
    *p = (struct Pending){
        .m = *m, .var = NEW_ARRAY(x->mem, V, x->k->axis.n), .constant = NEW_ARRAY(x->mem, V, x->k->axis.n)};
    p->bytes = int64(x, (int64_t)sums * DOT_LANES * WORD_BYTES);
    p->sums = LLVMBuildAlloca(x->entry, LLVMArrayType2(m->acc_type, 2 * sums), "sums");
    LLVMSetAlignment(p->sums, SCRATCH_ALIGN);
    p->at = LLVMBuildAlloca(x->entry, x->i64, "waiting"), p->next = LLVMBuildAlloca(x->entry, x->i64, "next");
    LLVMBuildStore(x->entry, int64(x, 0), p->at), LLVMBuildStore(x->entry, int64(x, m->rows), p->next);
    for (uint32_t a = 1; a < x->k->axis.n; a++) {
        if (!x->var[a] || !is_needed(m, (int)a)) continue;
        if (LLVMIsConstant(x->var[a])) p->constant[a] = x->var[a];
        else LLVMBuildStore(x->entry, int64(x, 0), p->var[a] = LLVMBuildAlloca(x->entry, x->i64, "then"));
    }
    int64_t steps = tile_steps(m);
    p->each = (m->rows + steps - 1) / steps;
    vec_push(x->mem, &x->pending, p);
    return p;
}

static V pending_sums(struct Pending *p, bool next)
{
    Emit *x = p->m.x;
    V at = LLVMBuildLoad2(x->b, x->i64, p->at, "");
    if (next) at = LLVMBuildXor(x->b, at, p->bytes, "");
    return LLVMBuildInBoundsGEP2(x->b, x->i8, p->sums, &at, 1, "");
}

static void finish_row(Micro *m, V row)
{
    tile_row(m->x, m->t, row);
    for (unsigned j = 0; j < m->cols; j++) {
        V col = int64(m->x, j), sum = sum_take(m, row, col);
        store_panel(m, with_start(m, sum, col, panel_mask(m, col)), col);
    }
}

static void finish_rows(struct Pending *p, V from, V to)
{
    Emit *x = p->m.x;
    V *now = x->var;
    Micro *m = &p->m;
    x->var = arena_copy(x->mem, now, sizeof *now * x->k->axis.n);
    m->waiting = m->sums = pending_sums(p, false);
    Loop l = loop_head(x, from, to);
    loop_body(x, &l), loop_runs(x, &l, p->each);
    for (uint32_t a = 1; a < x->k->axis.n; a++)
        if (p->var[a] || p->constant[a])
            x->var[a] = p->var[a] ? LLVMBuildLoad2(x->b, x->i64, p->var[a], "") : p->constant[a];
    finish_row(m, l.i);
    loop_close(x, &l, 1);
    LLVMBuildStore(x->b, to, p->next);
    x->var = now;
    forget_all(x);
}

static void finish_some(void *pending)
{
    struct Pending *p = pending;
    Emit *x = p->m.x;
    V rows = int64(x, p->m.rows), from = LLVMBuildLoad2(x->b, x->i64, p->next, "");
    V to = LLVMBuildAdd(x->b, from, int64(x, p->each), "");
    finish_rows(p, from, select2(x, LLVMBuildICmp(x->b, LLVMIntULT, to, rows, ""), to, rows));
}

/* Between two products of tiles. */
static void meanwhile(void *micro)
{
    Micro *m = micro;
    if (m->lines) ask_next(m);
    if (m->pending) finish_some(m->pending);
}

static void waiting_tiles(Micro *m, int n)
{
    Emit *x = m->x;
    struct Pending *p = pending_new(m);
    m->pending = p;
    V sums = pending_sums(p, true);
    tiles_sum(x, &m->in_tiles, int64(x, 0), n, m->col, (int)m->cols, sums);
    for (uint32_t a = 1; a < x->k->axis.n; a++)
        if (p->var[a]) LLVMBuildStore(x->b, x->var[a], p->var[a]);
    LLVMBuildStore(x->b, LLVMBuildXor(x->b, LLVMBuildLoad2(x->b, x->i64, p->at, ""), p->bytes, ""), p->at);
    LLVMBuildStore(x->b, int64(x, 0), p->next);
}

void micro_finish(Emit *x)
{
    for (uint32_t i = 0; i < x->pending.n; i++) {
        struct Pending *p = x->pending.at[i];
        finish_rows(p, LLVMBuildLoad2(x->b, x->i64, p->next, ""), int64(x, p->m.rows));
    }
}

void finish_tiles(Micro *m, V first)
{
    if (!is_summed(m) || !stores_one_by_one(m)) {
        blocks(m, first, m->rows, rows_at_once(m->rows));
        return;
    }
    m->waiting = m->sums; /* where they lie */
    store_waiting(m, first);
}

static void row_tiles(Micro *m, V first, V from, int rows, int n) /* n tiles make so many rows, from an earlier one on, all of which exist */
{
    Emit *x = m->x;
    int sums = rows == m->rows ? run_rows(m) : rows;
    Micro part = *m;
    part.sums_row = first;
    part.sums = LLVMBuildAlloca(x->entry, LLVMArrayType2(m->acc_type, (uint64_t)sums * m->cols), "sums");
    LLVMSetAlignment(part.sums, SCRATCH_ALIGN);
    tiles_sum(x, &m->in_tiles, from, n, m->col, (int)m->cols, part.sums);
    if (from != first) {
        V skip = LLVMBuildMul(x->b, LLVMBuildSub(x->b, first, from, ""), int64(x, m->cols), "");
        part.sums = LLVMBuildInBoundsGEP2(x->b, m->acc_type, part.sums, &skip, 1, "");
    }
    part.rows = rows;
    finish_tiles(&part, first);
}

V rows_before(Micro *m) /* the call's first, on its axis */
{
    Kernel *k = m->x->k;
    Expr *map = NEW_ARRAY(m->x->mem, Expr, k->axis.n);
    map[m->t->row] = expr_index(k, 0);
    return emit_scalar(m->x, expr_map(k, k->axis.at[k->axis.at[m->t->row].parent].whole, map));
}

/* Some rows may not exist: tile after tile, as far as they do. The last one begins early enough to be whole, where there are rows enough before
 * it; what it sums for them nobody takes. */
static void guarded_tiles(Micro *m, int n)
{
    Emit *x = m->x;
    int rows = x->tiles.rows;
    V zero = int64(x, 0), before = rows_before(m);
    V end = LLVMBuildSub(x->b, emit_scalar(x, x->k->axis.at[x->k->axis.at[m->t->row].parent].extent), before, "");
    Loop l = loop_head(x, zero, int64(x, (int64_t)n * rows));
    loop_body(x, &l);
    Branch exists = branch_open(x, LLVMBuildICmp(x->b, LLVMIntSLT, l.i, end, ""));
    V last = LLVMBuildSub(x->b, end, int64(x, rows), "");
    V from = select2(x, LLVMBuildICmp(x->b, LLVMIntSLT, last, l.i, ""), last, l.i);
    V enough = LLVMBuildICmp(x->b, LLVMIntSLE, zero, LLVMBuildAdd(x->b, before, from, ""), "");
    Branch whole = branch_open(x, enough);
    row_tiles(m, l.i, from, rows, 1);
    branch_close(x, whole);
    Branch few = branch_open(x, LLVMBuildNot(x->b, enough, ""));
    blocks(m, l.i, rows, TAIL_ROWS);
    branch_close(x, few);
    branch_close(x, exists);
    loop_close(x, &l, rows);
}

static void call_tiles(Micro *m)
{
    Emit *x = m->x;
    int n = m->rows / x->tiles.rows, rest = m->rows % x->tiles.rows, tiles = tiles_of_call(x, &m->in_tiles);
    if (m->in_tiles.turns == 1) plan_next(m, x->tiles.words);
    m->in_tiles.between = meanwhile, m->in_tiles.ctx = m;
    if (m->fixed_row && tiles) {
        if (may_wait(m)) waiting_tiles(m, tiles);
        else row_tiles(m, int64(x, 0), int64(x, 0), m->rows, tiles);
        return;
    }
    if (!m->fixed_row && n) guarded_tiles(m, n);
    else rest = m->rows;
    if (rest) blocks(m, int64(x, m->rows - rest), rest, TAIL_ROWS);
}

void micro_plan(Emit *x, const Stmt *s)
{
    for (; s; s = s->next) {
        micro_plan(x, s->body);
        if (s->kind != S_CALL) continue;
        Micro *m = NEW(x->mem, Micro);
        m->x = x, m->s = s, m->t = &s->tile;
        if (!match(m)) continue;
        int words = coded_words(m);
        if (words) tiles_want_codes(x, m->rows, words);
        else if (match_tiles(m)) tiles_want(x, &m->in_tiles, m->rows);
    }
}

static int fitting_rows(const Micro *m) /* accumulators in three quarters of the registers */
{
    int n = m->x->target->registers * 3 / 4 / (int)(m->cols * m->parts);
    return n < 1 ? 1 : n;
}

static V sums_new(Micro *m)
{
    int rows = m->rows < MAX_ROWS ? m->rows : MAX_ROWS;
    uint64_t n = (uint64_t)rows * m->cols * m->parts;
    V at = LLVMBuildAlloca(m->x->entry, LLVMArrayType2(m->acc_type, n), "waiting");
    LLVMSetAlignment(at, SCRATCH_ALIGN);
    return at;
}

bool micro_contract(Emit *x, const Stmt *s)
{
    Micro *m = NEW(x->mem, Micro);
    m->x = x, m->s = s, m->t = &s->tile;
    assert(!x->lane);
    if (!match(m)) return false;
    if (s->tile.dot && !strcmp(x->target->arch, "x86_64")) {
        bool zmm = x->target->lanes == 16, ymm = x->target->lanes == 8;
        m->parts = zmm ? 1 : ymm ? 2 : 4;
    }
    m->dots = sums_dots(m), m->far = !m->dots && is_far(m);
    m->acc_type = LLVMVectorType(s->tile.acc == DT_f32 || s->tile.scale ? x->f32 : x->i32, m->lanes / m->parts);
    m->total_type = m->acc_type, m->fixed_row = !s->tile.row_guard;
    m->waiting = sums_new(m);
    panels(m);
    if (tiles_take_codes(x, coded_words(m), m->rows)) call_coded(m);
    else if (match_tiles(m)) call_tiles(m);
    else if (!m->fixed_row && has_one_form(m) && m->rows <= MAX_ROWS) blocks(m, int64(x, 0), m->rows, m->rows);
    else if (!m->fixed_row) blocks(m, int64(x, 0), m->rows, TAIL_ROWS);
    else if (m->rows <= MAX_ROWS && strcmp(s->name, "tiles")) block(m, int64(x, 0));
    else blocks(m, int64(x, 0), m->rows, fitting_rows(m));
    x->lanes = 0;
    return true;
}
