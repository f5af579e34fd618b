/* option_rows.h - a row of the command line's options, for tests that compare it with the table it names. */
#ifndef OPTION_ROWS_H
#define OPTION_ROWS_H
#include <criterion/criterion.h>
#include <string.h>

typedef struct OptionRow {
    const char *name, *value, *fallback, *help;
} OptionRow;

static inline OptionRow option_row(const char *name)
{
#define OPTION(id, name, kind, commands, value, later, fallback, help) {name, value, fallback, help},
    static const OptionRow rows[] = {
#include "frontend/options.def"
    };
#undef OPTION
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (!strcmp(rows[i].name, name)) return rows[i];
    cr_assert_fail("options.def has no %s", name);
    return rows[0];
}
#endif
