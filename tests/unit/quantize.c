/* Ranges in their text file, and what pass_quantize decides layer by layer. */
#include "passes/passes.h"
#include "passes/quantize.h"
#include "tests/unit/worlds.h"
#include <stdlib.h>
#include <unistd.h>

static World w;
static Quantization q;
static char path[] = "/tmp/octet-ranges-XXXXXX";
static void setup(void)
{
    world_open(&w);
    q = (Quantization){.mem = &w.mem};
    strcpy(path + strlen(path) - 6, "XXXXXX");
    int fd = mkstemp(path);
    cr_assert(fd >= 0);
    close(fd);
}
static void teardown(void) { unlink(path), world_close(&w); }
TestSuite(quantize, .init = setup, .fini = teardown);

static bool reads(const char *text)
{
    FILE *f = fopen(path, "w");
    fputs(text, f), fclose(f);
    return ranges_read(&q, &w.diag, path);
}

static void refuses(const char *text, const char *at, const char *what)
{
    unsigned before = w.diag.line.n;
    cr_expect(!reads(text), "'%s' is taken", text);
    cr_assert(w.diag.line.n == before + 1, "'%s': %u messages", text, w.diag.line.n - before);
    const char *said = w.diag.line.at[before];
    cr_expect(strstr(said, arena_printf(&w.mem, "%s:%s", path, at)) && strstr(said, what), "'%s' does not say '%s' at line %s", said, what, at);
}

Test(quantize, ranges_go_round_through_their_file)
{
    static const struct {
        const char *name;
        double lo, hi;
    } ranges[] = {{"a", -1.5, 2}, {"block/conv:0", 0, 0}, {"with space", -3e-7, 1e30}, {"\xc3\xa9t\xc3\xa9", -1.0 / 3, 1e-30}};
    for (size_t i = 0; i < COUNT_OF(ranges); i++) range_set(&q, ranges[i].name, ranges[i].lo, ranges[i].hi);
    range_set(&q, "a", -0.5, 1); /* the later one counts */
    cr_assert(ranges_write(&q, &w.diag, path, "model"));
    Quantization back = {.mem = &w.mem};
    cr_assert(ranges_read(&back, &w.diag, path) && !w.diag.errors);
    cr_assert(back.range.n == COUNT_OF(ranges));
    for (size_t i = 0; i < COUNT_OF(ranges); i++) {
        const Range *r = range_find(&back, ranges[i].name);
        double lo = i ? ranges[i].lo : -0.5, hi = i ? ranges[i].hi : 1;
        cr_assert(r && (float)r->lo == (float)lo && (float)r->hi == (float)hi, "%s", ranges[i].name);
    }
    cr_expect(!range_find(&back, "b"));
}

Test(quantize, gains_go_round_with_their_ranges)
{
    static const float by[] = {0.1f, 3, 1e-7f};
    Range *r = range_set(&q, "x", -1, 1);
    r->gain = by, r->gains = COUNT_OF(by);
    cr_assert(ranges_write(&q, &w.diag, path, "model"));
    Quantization back = {.mem = &w.mem};
    cr_assert(ranges_read(&back, &w.diag, path) && !w.diag.errors);
    const Range *b = range_find(&back, "x");
    cr_assert(b && b->gains == COUNT_OF(by) && !memcmp(b->gain, by, sizeof by));
    refuses("x\t0\t1\tgains=1,0,2\n", "1", "gains");
    refuses("x\t0\t1\tgains=1,-1\n", "1", "above 0");
    refuses("x\t0\t1\tgains=1,1e-60\n", "1", "gains");
}

Test(quantize, ranges_by_hand)
{
    cr_assert(reads("# a comment\n\nx\t-1\t2.5e0\r\ny\t0\t0"));
    cr_expect(q.range.n == 2 && range_find(&q, "x")->hi == 2.5 && range_find(&q, "y")->lo == 0);
}

Test(quantize, malformed_ranges_are_refused_with_their_line)
{
    refuses("x\t-1\t1\ny -1 1\n", "2", "expected NAME<TAB>LOWEST<TAB>HIGHEST");
    refuses("x\t-1\n", "1", "expected NAME");
    refuses("x\t-1\tmany\n", "1", "two finite numbers");
    refuses("#\n#\nx\t2\t1\n", "3", "the lower first");
    refuses("x\tnan\t1\n", "1", "two finite numbers");
    refuses("x\t0\tinf\n", "1", "two finite numbers");
    refuses("x\t\t1\n", "1", "two finite numbers");
    refuses("x\t0\t1\trms=0.5\n", "1", "root mean squares");
    refuses("x\t0\t1\trms=0.5,-1\n", "1", "root mean squares");
    refuses("x\t0\t1\tmeans=0.1,\n", "1", "means");
}

/* What calibration saw comes back to the last bit. */
Test(quantize, statistics_go_round_through_the_file)
{
    float x[1000];
    uint32_t seed = 7;
    Statistic s = {0};
    ChannelSums sums = {0};
    for (int i = 0; i < 1000; i++) x[i] = (float)(random_step(&seed) % 1000) / 3;
    x[7] = INFINITY;
    stat_add(&w.mem, &s, x, 500), stat_add(&w.mem, &s, x + 500, 500);
    stat_channels(&w.mem, &sums, x, 100, 5, 2);
    Range *r = range_set(&q, "t", 1, 2);
    RowSums rows = {0};
    stat_rows(&rows, x, 1000, 10);
    r->stat = &s, r->sums = &sums, r->rows = &rows;
    FILE *f = fopen(path, "w");
    ranges_print(&q, f, &(RangesHead){"model", "g1", "c1", "mse:1", 2});
    fclose(f);
    Quantization back = {.mem = &w.mem};
    RangesHead head;
    cr_assert(ranges_read_head(&back, &w.diag, path, &head), "%s", w.diag.line.at[0]);
    cr_expect(!strcmp(head.graph, "g1") && !strcmp(head.content, "c1") && !strcmp(head.method, "mse:1") && head.samples == 2);
    const Range *b = range_find(&back, "t");
    cr_assert(b && b->stat && b->sums && b->lo == 1 && b->hi == 2);
    cr_expect(b->stat->lo == s.lo && b->stat->hi == s.hi && b->stat->sum_lo == s.sum_lo && b->stat->sum_hi == s.sum_hi);
    cr_expect(b->stat->from == s.from && b->stat->width == s.width && b->stat->seen == 1000 && b->stat->bad == 1 && b->stat->samples == 2);
    cr_expect(!memcmp(b->stat->bin, s.bin, sizeof *s.bin * STAT_BINS));
    cr_expect(b->rows && !memcmp(b->rows, &rows, sizeof rows));
    cr_expect(b->sums->channels == 5 && b->sums->seen == 200 && !memcmp(b->sums->sum, sums.sum, sizeof(double) * 5));
}

Test(quantize, statistics_that_cannot_be_are_refused)
{
    refuses("x\t0\t1\tluck=3\n", "1", "unknown column 'luck=3' of 'x'");
    refuses("x\t0\t1\tmeans=1,,2\n", "1", "column 'means' of 'x' must be means");
    refuses("x\t0\t1\tseen=3,1\n", "1", "column 'seen'");
    refuses("x\t0\t1\tseen=3,3,1\n", "1", "column 'seen'");
    refuses("x\t0\t1\tbins=0,1:5\n", "1", "column 'bins'");
    refuses("x\t0\t1\tbins=0,1:5x2049\n", "1", "column 'bins'");
    refuses("x\t0\t1\tbins=0,0:5x2048\n", "1", "column 'bins'");
    refuses("x\t0\t1\tseen=4,0,1\textremes=0,1,0,1\tbins=0,1:5x2048\n", "1", "do not agree");
    refuses("x\t0\t1\tsums=4:1,2\n", "1", "do not agree");
    cr_expect(reads("x\t0\t1\tseen=4096,0,1\textremes=0,1,0,1\tbins=0,1:2x2048\tmeans=0.5,-1\n"));
    cr_expect(range_find(&q, "x")->channels == 2 && range_find(&q, "x")->mean[1] == -1);
}

Test(quantize, files_that_are_not_there)
{
    cr_expect(!ranges_read(&q, &w.diag, "/nowhere/ranges.txt"));
    cr_expect(strstr(w.diag.line.at[0], "/nowhere/ranges.txt") && strstr(w.diag.line.at[0], "No such file"));
    cr_expect(!ranges_write(&q, &w.diag, "/nowhere/ranges.txt", "model"));
    cr_expect(w.diag.errors == 2 && strstr(w.diag.line.at[1], "/nowhere/ranges.txt"));
}

static const char two_layers[] =
    "graph \"g\" (%1 \"x\": f32[N,2], %2 \"m\": f32[2,2]) -> (%8 \"y\") {"
    "  %3 = const f32[2,2] {1, 2, 3, 4} \"w\""
    "  %4 = MatMul(%1, %3) ; \"block/one\" #0"
    "  %5 = Relu(%4) ; \"act\" #1"
    "  %6 = MatMul(%5, %3) ; \"block/two\" #2"
    "  %7 = MatMul(%6, %2) ; \"dynamic\" #3"
    "  %8 = Relu(%7) ; \"end\" #4 }";

Test(quantize, products_of_computed_tensors_are_found)
{
    static const char constant[] = "graph \"g\" (%1 \"x\": f32[N,2]) -> (%3 \"y\") {"
                                   "  %2 = const f32[2,2] {1, 2, 3, 4} \"w\""
                                   "  %3 = MatMul(%1, %2) ; \"one\" #0 }";
    cr_expect(multiplies_computed(graph_parse(&w.module, &w.mem, two_layers)));
    cr_expect(!multiplies_computed(graph_parse(&w.module, &w.mem, constant)));
}

static Graph *quantized(const char *keep)
{
    PassCtx ctx = {.module = &w.module, .mem = &w.mem, .scratch = &w.scratch, .quant = &q};
    Graph *g = graph_parse(&w.module, &w.mem, two_layers);
    cr_assert(g);
    range_set(&q, "x", -1, 1), range_set(&q, "act/Relu:0", 0, 4);
    q.keep = keep;
    return pass_quantize(g, &ctx);
}

static const Layer *layer_of(const char *node)
{
    for (uint32_t i = 0; i < q.layer.n; i++)
        if (!strcmp(q.layer.at[i].loc->node, node)) return &q.layer.at[i];
    cr_assert_fail("no layer %s", node);
    return NULL;
}

Test(quantize, every_contraction_is_reported)
{
    const char *why;
    Graph *g = quantized(NULL);
    cr_assert(graph_verify(g, &why), "%s", why);
    cr_assert(q.layer.n == 3);
    const Layer *one = layer_of("block/one"), *dynamic = layer_of("dynamic");
    cr_expect(one->state == LAYER_INTEGER && one->weights == 4 && one->weight_sqnr > 30);
    cr_expect_float_eq(one->scale, 2.0 / 255, 1e-6);
    cr_expect(one->zero_point == 127 || one->zero_point == 128);
    cr_expect(layer_of("block/two")->state == LAYER_INTEGER && layer_of("block/two")->zero_point == 0);
    cr_expect(dynamic->state == LAYER_FLOAT && strstr(dynamic->why, "computed at run time"));
}

Test(quantize, keep_leaves_layers_float)
{
    quantized("^block/t");
    cr_expect(layer_of("block/one")->state == LAYER_INTEGER);
    cr_expect(layer_of("block/two")->state == LAYER_FLOAT && strstr(layer_of("block/two")->why, "--keep"));
}

Test(quantize, wanted_are_the_activations_of_contractions_with_constant_weights)
{
    Graph *g = graph_parse(&w.module, &w.mem, two_layers);
    const bool *want = quantize_wanted(g, NULL, &w.scratch);
    for (uint32_t v = 1; v < g->val.n; v++) {
        const char *name = tensor_name(g, (Val){v}, &w.mem);
        cr_expect(want[v] == (!strcmp(name, "x") || !strcmp(name, "act/Relu:0")), "%s", name);
    }
}

Test(quantize, what_is_slower_in_integers_stays_float)
{
    static const struct {
        int64_t in, out, kernel, group;
        bool integer;
    } row[] = {{64, 64, 1, 1, true}, {3, 32, 3, 1, true},   {32, 32, 1, 4, true}, /* dense, a first layer, groups of eight */
               {64, 64, 3, 64, false}, {1, 16, 3, 1, false}, {64, 1, 1, 1, false}}; /* depthwise, one channel, one result */
    const OpDef *conv = op_find("", "Conv");
    for (size_t i = 0; i < COUNT_OF(row); i++) {
        Graph *g = graph_new(&w.module, &w.mem, "g");
        Type t = {.dtype = DT_f32, .rank = 4};
        int64_t x_dim[] = {1, row[i].in, 28, 28}, w_dim[] = {row[i].out, row[i].in / row[i].group, row[i].kernel, row[i].kernel};
        for (int d = 0; d < 4; d++) t.dim[d] = dim_const(w.module.dim, x_dim[d]);
        Attr *attr = op_attr_defaults(&w.mem, conv);
        attr_set_int(conv, attr, "group", row[i].group);
        Val x = graph_input(g, "x", t), in[2] = {x, graph_const(g, tensor_random(&w.mem, DT_f32, 4, w_dim, 1), "w")};
        graph_output(g, graph_emit(g, conv, attr, in, 2, 1, NULL, NULL), "y");
        cr_expect_eq(quantize_wanted(g, NULL, &w.scratch)[x.id], row[i].integer, "row %zu", i);
    }
}
