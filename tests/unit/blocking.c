/* Blocking: the tile and the loop order a product gets, where it matters. */
#include "codegen/blocking.h"
#include <criterion/criterion.h>

static Product floats(int64_t rows, int64_t columns, int64_t depth)
{
    return (Product){.rows = rows,
                     .panels = columns / 16,
                     .steps = depth,
                     .times = 1,
                     .unit = 1,
                     .least = 0,
                     .left = 4,
                     .right = 64,
                     .image = rows < 0 ? -1 : rows * depth * 4};
}

Test(blocking, tiles_fill_the_registers_and_fit_them)
{
    static const char *const level[] = {"portable", "avx2", "avx512"};
    for (int i = 0; i < 3; i++) {
        const Target *t = target_find(level[i]);
        Product p = floats(1024, 1024, 1024);
        Blocking b = blocking_vectors(&p, t);
        int registers = 16 / t->lanes, held = (b.rows + 1) * b.cols * registers;
        cr_expect(held <= t->registers && b.rows * b.cols * registers >= 8, "%s: %d x %d", level[i], b.rows, b.cols);
    }
}

Test(blocking, rows_that_are_unknown_get_a_tile_that_few_rows_fill)
{
    Product p = floats(-1, 1024, 1024);
    cr_expect_leq(blocking_vectors(&p, target_find("avx512")).rows, 8);
    p.unit = 12;
    cr_expect_eq(blocking_vectors(&p, target_find("avx512")).rows, 12);
}

/* Weights that no cache holds pass once, group by group; few weights stay while the image passes. */
Test(blocking, the_larger_factor_passes_once)
{
    const Target *t = target_find("avx512");
    Product weights = floats(128, 4096, 1024), image = floats(12544, 64, 64);
    cr_expect(blocking_vectors(&weights, t).panels_first);
    cr_expect_eq(blocking_vectors(&image, t).panels_first, false);
}

Test(blocking, one_row_takes_many_panels)
{
    Product p = floats(1, 1024, 1024);
    Blocking b = blocking_vectors(&p, target_find("avx512"));
    cr_expect(b.rows == 1 && b.cols >= 4, "%d panels", b.cols);
}

/* Two sums in tile registers hide each other's latency, and what is read again is what a near cache holds. */
Test(blocking, tiles_read_little_again)
{
    enum { WORD = 4, PANEL = 16 * WORD };
    Product p = {.rows = 7, .panels = 32, .steps = 9 * 512 / WORD, .times = 7, .unit = 1, .left = WORD, .right = PANEL, .image = 81 * 512, .result = 1};
    Blocking late = blocking_tiles(&p); /* the last layers of a network: more weights than the second level cache holds */
    cr_expect(late.panels_first && late.rows == 7 && late.cols == 4, "%d x %d", late.rows, late.cols);
    p = (Product){.rows = 3136, .panels = 16, .steps = 64 / WORD, .times = 1, .unit = 1, .left = WORD, .right = PANEL, .image = 3136 * 64, .result = 1};
    Blocking early = blocking_tiles(&p); /* the first ones: few weights, many results, whose lines are filled at once */
    cr_expect(!early.panels_first && early.rows == 32 && early.cols == 2, "%d x %d", early.rows, early.cols);
    p = (Product){.rows = 49, .panels = 1, .steps = 64, .times = 1, .unit = 1, .left = WORD, .right = PANEL, .image = 49 * 256, .result = 1};
    cr_expect(blocking_tiles(&p).rows >= 32);
}

/* Weights from behind the caches pass in blocks, while the rows of a tile stay in the first: the tiles of a block ask for the next one. */
Test(blocking, panels_of_tiles_pass_in_blocks)
{
    enum { WORD = 4, PANEL = 16 * WORD };
    Product p = {.rows = 128, .panels = 48, .steps = 768 / WORD, .times = 1, .unit = 1, .left = WORD, .right = PANEL, .result = 4};
    p.image = 128 * 768, p.pitch = 768, p.once = true;
    Blocking b = blocking_tiles(&p);
    cr_expect(!b.panels_first && b.block > 1 && 48 % (b.block * b.cols) == 0 &&
                  b.block * b.cols * 16 * 768 <= PANELS_NEXT / 2,
              "%d x %d", b.block, b.cols);
    p.panels = 8;
    cr_expect_eq(blocking_tiles(&p).block, 0, "few panels are near");
    p.panels = 48, p.steps = 3072 / WORD, p.image = 128 * 3072, p.pitch = 3072;
    cr_expect(blocking_tiles(&p).panels_first, "neither stays: what is read most comes first");
}

/* More rows than the second level cache holds pass in blocks of whole tiles that it does hold. */
Test(blocking, rows_of_tiles_pass_in_blocks)
{
    enum { WORD = 4, PANEL = 16 * WORD };
    Product p = {.rows = 1024, .panels = 64, .steps = 1024 / 2, .times = 1, .unit = 1, .left = WORD, .right = PANEL, .image = 1024 * 2048, .result = 4};
    Blocking b = blocking_tiles(&p);
    cr_expect(b.panels_first && b.block > 1 && 1024 % (b.block * b.rows) == 0, "%d x %d", b.block, b.rows);
    p.rows = 256, p.image = 256 * 2048;
    cr_expect_eq(blocking_tiles(&p).block, 0);
}
