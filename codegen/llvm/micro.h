/* micro.h - what the files of the `contract` call share: micro.c, codes.c for codes in blocks, and dots.c for sums in lanes. */
#ifndef OCTET_LLVM_MICRO_H
#define OCTET_LLVM_MICRO_H
#include "codegen/llvm/internal.h"

enum { WORD_BYTES = 4, MAX_ROWS = 32, MAX_CALL_ROWS = 128, MAX_COLS = 8, MAX_PARTS = 4, TAIL_ROWS = 4, DOT_LANES = 16 };
enum { AHEAD = 4096, LINE = 64 }; /* bytes */
enum { EACH_BYTE = 0x01010101 };  /* times a byte: a word of it */

typedef struct Micro {
    Emit *x;
    const Stmt *s;
    const Tile *t;
    int rows, depths;                 /* of this block, in all its lines; loops, without the dot axis */
    int width;                        /* rows of a line */
    unsigned cols, lanes, parts;      /* parts: registers of one accumulator (words only) */
    bool fixed_row;                   /* no row is missing */
    V row[MAX_ROWS], valid[MAX_ROWS]; /* index to read with; does it exist */
    V col[MAX_COLS], mask[MAX_COLS];  /* the same for panels; lanes that exist */
    bool right_padded;                /* right may be read for lanes that do not exist */
    bool dots;                        /* terms are in lanes (dots.c) */
    bool far;                         /* right comes from beyond the second level cache */
    int lines, round;                 /* that are asked for of the next panels in so many steps */
    V panel, next;                    /* the first line of these, and of what this tile asks for */
    DType left_type, right_type;
    int left_buf, right_buf;             /* words: the buffers */
    bool flips;                          /* the signs of right's codes */
    int word;                            /* elements of a word */
    bool adjacent;                       /* those of left are adjacent */
    bool even;                           /* rows of left are at a constant distance, and so are lines */
    int64_t apart[2];                    /* elements: from a row to the next, from a line to the next */
    V wide, wide_from;                   /* the rows' narrow floats as wide ones, for so many steps from there on; or NULL */
    int wide_steps;
    V base;                              /* of this step: the first row's element, from which others are found; or NULL */
    Expr left, right, left_at, right_at; /* expanded; element offsets */
    int whole;                           /* words: the axis the dot axis is part of, when it may not divide */
    V rest;                              /* how many elements its last, partial word has; NULL: this is a whole one */
    TileSum in_tiles;                    /* the same for tile registers */
    V sums, sums_row;                    /* what they have summed, for rows from sums_row on; NULL: nothing */
    T acc_type, total_type;              /* of the sums at hand, inside blocks integers; of what `it` is */
    V waiting;               /* memory for the sums of a block */
    struct Pending *pending; /* results of the call before; NULL: none wait */
    V acc[MAX_ROWS][MAX_COLS][MAX_PARTS];
} Micro;

#define EACH_ACC(m, i, j, p)                                                                                           \
    for (int i = 0; i < (m)->rows; i++)                                                                                \
        for (unsigned j = 0; j < (m)->cols; j++)                                                                       \
            for (unsigned p = 0; p < (m)->parts; p++)

/* ---- micro.c ---- */
V select2(Emit *x, V c, V a, V b);
V bytes_on(Emit *x, V p, V by);
V joined(Emit *x, V *part, unsigned n);             /* vectors, a power of two of them, as one */
V in_lanes(Micro *m, V mask, Expr e);
bool is_shift(const Micro *m, int axis);            /* does it choose a code of a byte? */
bool fits_beside(const Micro *m, int more);         /* are there registers for so many more vectors beside the sums of a block? */
V right_panel(Micro *m, unsigned j, unsigned part); /* one word of each lane, as it is multiplied */
V right_line(Micro *m, V col);                      /* of this step, of a panel: where it begins in memory */
int64_t bytes_until(const Micro *m);                /* from there to what is read soon */
void ask(Micro *m, V line, int cache);              /* into the cache of this level */
V total_at(const Micro *m, V totals, int i, unsigned j, unsigned p); /* memory of one register's */
void depth_loop(Micro *m, int d);                   /* sums from this loop inward */
V rows_before(Micro *m);                            /* the call's first, on its axis */
void blocks(Micro *m, V from, int rows, int n);     /* rows with vectors, n at a time */
void finish_tiles(Micro *m, V first);               /* what tiles have summed of rows from `first` on */

/* ---- codes.c ---- */
void sum_codes(Micro *m);
int coded_words(Micro *m); /* words of a block, if tile registers can sum this call's; else 0 */
void call_coded(Micro *m);

/* ---- dots.c ---- */
bool sums_dots(const Micro *m);
void sum_dots(Micro *m);
#endif
