/* profile.c - what took how long, how fast that is, and how fast it could be.
 *
 * Comes in: nanoseconds of every step and what each has to do (OctetWork). Goes out: for contractions operations a second, for
 * everything else bytes a second, and which part that is of the limit measured on this machine: the larger of the times
 * that arithmetic and reading would take alone, over the time it took. */
#include "frontend/profile.h"
#include <cjson/cJSON.h>
#include <inttypes.h>
#include <stdlib.h>

typedef struct UnitInfo {
    const char *name, *rate;
} UnitInfo;
static const UnitInfo units[OCTET_MATHS] = {[OCTET_MATH_F32] = {"f32", "GFLOP/s"},
                                            [OCTET_MATH_BF16] = {"bf16", "GFLOP/s"},
                                            [OCTET_MATH_INT8] = {"int8", "Gop/s"}};

typedef struct Row {
    int32_t step;
    double seconds, least; /* of a run; least: what the limits allow */
    OctetWork work;
} Row;

static bool is_contraction(const OctetWork *w) { return !strncmp(w->what, "contraction", strlen("contraction")); }

bool profile_limits(Profile *p, Diag *d)
{
    bool unit[OCTET_MATHS] = {false};
    for (int32_t i = 0; i < p->api->steps; i++) {
        OctetWork w;
        p->api->step_work(p->context, i, &w);
        if (w.operations > 0) unit[w.math] = true;
    }
    return limits_measure(&p->limits, p->level, p->threads, unit, d);
}

/* ---- rows ---- */
static int by_seconds(const void *a, const void *b)
{
    const Row *x = a, *y = b;
    if (x->seconds != y->seconds) return x->seconds < y->seconds ? 1 : -1;
    return (x->step > y->step) - (x->step < y->step);
}

static Row *rows_make(const Profile *p, Arena *mem, bool by_time)
{
    Row *row = NEW_ARRAY(mem, Row, p->api->steps + 1);
    for (int32_t i = 0; i < p->api->steps; i++) {
        Row *r = &row[i];
        r->step = i, r->seconds = (double)p->nanoseconds[i] / p->runs * 1e-9;
        p->api->step_work(p->context, i, &r->work);
        r->least = limits_least(&p->limits, &r->work);
    }
    if (by_time) qsort(row, (size_t)p->api->steps, sizeof *row, by_seconds);
    return row;
}

typedef struct Total {
    double seconds, least, operations;
    bool unit[OCTET_MATHS]; /* of its contractions */
} Total;

static Total total_of(const Profile *p, const Row *row)
{
    Total t = {0};
    for (int32_t i = 0; i < p->api->steps; i++) {
        t.seconds += row[i].seconds, t.least += row[i].least, t.operations += row[i].work.operations;
        if (is_contraction(&row[i].work)) t.unit[row[i].work.math] = true;
    }
    return t;
}

/* "12 x 128x64x768" of a contraction, "401408x9" of a sum, "401408" of a map */
static const char *shape_text(Arena *mem, const OctetWork *w)
{
    const int64_t *n = w->size;
    if (!n[1]) return "?";
    if (!is_contraction(w))
        return n[3] == 1 ? arena_printf(mem, "%" PRId64, n[1]) : arena_printf(mem, "%" PRId64 "x%" PRId64, n[1], n[3]);
    const char *one = arena_printf(mem, "%" PRId64 "x%" PRId64 "x%" PRId64, n[1], n[2], n[3]);
    return n[0] == 1 ? one : arena_printf(mem, "%" PRId64 " x %s", n[0], one);
}

static double rate_of(const Row *r)
{
    double amount = is_contraction(&r->work) ? r->work.operations : r->work.bytes;
    return r->seconds > 0 ? amount / r->seconds * 1e-9 : 0;
}

static const char *rate_unit(const OctetWork *w) { return is_contraction(w) ? units[w->math].rate : "GB/s"; }

static double percent(double part, double whole) { return whole > 0 ? part / whole * 100 : 0; }

/* ---- as a table ---- */
static void limits_print(const Profile *p, FILE *f)
{
    const Limits *l = &p->limits;
    fprintf(f, "limits measured here (%s, %d thread%s):", p->level, p->threads, p->threads > 1 ? "s" : "");
    for (int u = 0; u < OCTET_MATHS; u++)
        if (l->operations[u] > 0) fprintf(f, " %s %.1f %s,", units[u].name, l->operations[u] * 1e-9, units[u].rate);
    fprintf(f, " reading");
    for (int i = 0; i < LIMIT_SIZES; i++)
        fprintf(f, "%s %.1f GB/s of %zu kB", i ? "," : "", l->read[i].rate * 1e-9, l->read[i].bytes >> 10);
    fputc('\n', f);
}

void profile_print(const Profile *p, bool by_time, FILE *f)
{
    Arena mem = {0};
    const Row *row = rows_make(p, &mem, by_time);
    Total t = total_of(p, row);
    limits_print(p, f);
    fprintf(f, "%10s %6s %15s %9s  %-5s %s\n", "ms", "share", "rate", "of limit", "code", "step");
    for (int32_t i = 0; i < p->api->steps; i++) {
        const Row *r = &row[i];
        fprintf(f, "%10.4f %5.1f%% %7.1f %-7s %8.1f%%  k%-4u %s %s: %s\n", r->seconds * 1e3,
                percent(r->seconds, t.seconds), rate_of(r), rate_unit(&r->work), percent(r->least, r->seconds),
                (unsigned)p->api->model->step[r->step].kernel, r->work.what, shape_text(&mem, &r->work),
                p->api->step_name[r->step]);
    }
    const char *unit = t.unit[OCTET_MATH_INT8] ? "Gop/s" : "GFLOP/s";
    fprintf(f, "%10.4f %5.1f%% %7.1f %-7s %8.1f%%  %-5s %" PRId32 " steps\n", t.seconds * 1e3, 100.0,
            t.seconds > 0 ? t.operations / t.seconds * 1e-9 : 0, unit, percent(t.least, t.seconds), "all",
            p->api->steps);
    arena_drop(&mem);
}

/* ---- as JSON ---- */
static cJSON *limits_object(const Profile *p)
{
    cJSON *o = cJSON_CreateObject(), *read = cJSON_CreateArray();
    for (int u = 0; u < OCTET_MATHS; u++)
        if (p->limits.operations[u] > 0) cJSON_AddNumberToObject(o, units[u].name, p->limits.operations[u] * 1e-9);
    for (int i = 0; i < LIMIT_SIZES; i++) {
        cJSON *size = cJSON_CreateObject();
        cJSON_AddNumberToObject(size, "bytes", (double)p->limits.read[i].bytes);
        cJSON_AddNumberToObject(size, "gb_per_s", p->limits.read[i].rate * 1e-9);
        cJSON_AddItemToArray(read, size);
    }
    cJSON_AddItemToObject(o, "read", read);
    return o;
}

static cJSON *row_object(const Profile *p, Arena *mem, const Row *r)
{
    cJSON *o = cJSON_CreateObject();
    cJSON_AddNumberToObject(o, "step", r->step);
    cJSON_AddStringToObject(o, "name", p->api->step_name[r->step]);
    cJSON_AddNumberToObject(o, "kernel", p->api->model->step[r->step].kernel);
    cJSON_AddStringToObject(o, "what", r->work.what);
    cJSON_AddStringToObject(o, "shape", shape_text(mem, &r->work));
    cJSON_AddNumberToObject(o, "ms", r->seconds * 1e3);
    cJSON_AddNumberToObject(o, "operations", r->work.operations);
    cJSON_AddNumberToObject(o, "bytes", r->work.bytes);
    cJSON_AddNumberToObject(o, "rate", rate_of(r));
    cJSON_AddStringToObject(o, "rate_unit", rate_unit(&r->work));
    cJSON_AddNumberToObject(o, "percent_of_limit", percent(r->least, r->seconds));
    return o;
}

void profile_json(const Profile *p, bool by_time, FILE *f)
{
    Arena mem = {0};
    const Row *row = rows_make(p, &mem, by_time);
    Total t = total_of(p, row);
    cJSON *o = cJSON_CreateObject(), *steps = cJSON_CreateArray();
    for (int32_t i = 0; i < p->api->steps; i++) cJSON_AddItemToArray(steps, row_object(p, &mem, &row[i]));
    cJSON_AddItemToObject(o, "limits", limits_object(p));
    cJSON_AddItemToObject(o, "steps", steps);
    cJSON_AddNumberToObject(o, "ms", t.seconds * 1e3);
    cJSON_AddNumberToObject(o, "operations", t.operations);
    cJSON_AddNumberToObject(o, "percent_of_limit", percent(t.least, t.seconds));
    char *text = cJSON_PrintUnformatted(o);
    if (text) fputs(text, f);
    cJSON_free(text);
    cJSON_Delete(o);
    arena_drop(&mem);
}
