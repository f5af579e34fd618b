/* diag.c - formats diagnostics; see diag.h for their shape. */
#include "ir/base/diag.h"

static const char *place(Diag *d, const Loc *loc)
{
    const char *colon = *d->subject ? ": " : "";
    if (!loc) return arena_printf(d->mem, "%s%s", d->subject, colon);
    if (!*loc->node) return arena_printf(d->mem, "%s%snode #%d (%s): ", d->subject, colon, loc->index, loc->op);
    return arena_printf(d->mem, "%s%snode '%s' (%s, #%d): ", d->subject, colon, loc->node, loc->op, loc->index);
}

bool diag_error(Diag *d, const Loc *loc, const char *fmt, ...)
{
    if (d->errors++ >= DIAG_MAX) return false;
    va_list args;
    va_start(args, fmt);
    const char *text = arena_vprintf(d->mem, fmt, args);
    va_end(args);
    vec_push(d->mem, &d->line, arena_printf(d->mem, "%serror: %s", place(d, loc), text));
    return false;
}

void diag_note(Diag *d, const char *fmt, ...)
{
    if (d->errors > DIAG_MAX) return;
    va_list args;
    va_start(args, fmt);
    vec_push(d->mem, &d->line, arena_printf(d->mem, "  note: %s", arena_vprintf(d->mem, fmt, args)));
    va_end(args);
}

void diag_warn(Diag *d, const Loc *loc, const char *fmt, ...)
{
    if (d->warning.n >= DIAG_MAX) return;
    va_list args;
    va_start(args, fmt);
    vec_push(d->mem, &d->warning,
             arena_printf(d->mem, "%swarning: %s", place(d, loc), arena_vprintf(d->mem, fmt, args)));
    va_end(args);
}

void diag_print(const Diag *d, FILE *f)
{
    for (uint32_t i = 0; i < d->warning.n; i++) fprintf(f, "%s\n", d->warning.at[i]);
    for (uint32_t i = 0; i < d->line.n; i++) fprintf(f, "%s\n", d->line.at[i]);
    if (d->errors > DIAG_MAX) fprintf(f, "%s: %u more errors\n", d->subject, d->errors - DIAG_MAX);
}
