/* ranges.c - ranges of tensors by name, and their text file.
 *
 * A line is a tensor: NAME<TAB>LOWEST<TAB>HIGHEST and then, after tabs, KEY=VALUE columns in any order, each a row of the table below: means
 * that correct biases, and what calibration has seen, from which it goes on and from which every method's range follows. A line that begins
 * with "#" is a comment; "#! KEY VALUE" of the head says what the statistics come from. Numbers that are added to are written with 17
 * digits: what is read back is what was written. */
#include "passes/quantize.h"
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

const Range *range_find(const Quantization *q, const char *name)
{
    uint32_t i = map_get(&q->index, name);
    return i ? &q->range.at[i - 1] : NULL;
}

Range *range_set(Quantization *q, const char *name, double lo, double hi)
{
    uint32_t i = map_get(&q->index, name);
    if (!i) {
        const char *kept = arena_text(q->mem, name, strlen(name));
        vec_push(q->mem, &q->range, (Range){.name = kept});
        map_put(q->mem, &q->index, kept, i = q->range.n);
    }
    Range *r = &q->range.at[i - 1];
    return r->lo = lo, r->hi = hi, r;
}

/* ---- columns ---- */
typedef struct Row {
    Quantization *q;
    Range *range;
    Statistic *stat; /* made by the first column of them */
    ChannelSums *sums;
    RowSums *rows;
} Row;

/* A finite number at *text, which moves behind it and the separator that must follow; the last has none. */
static bool take_number(char **text, char separator, double *v)
{
    char *end;
    *v = strtod(*text, &end);
    if (end == *text || !isfinite(*v) || *end != separator) return false;
    return *text = end + (separator != 0), true;
}

static bool take_count(char **text, char separator, uint64_t *v)
{
    char *end;
    if (**text < '0' || **text > '9') return false;
    errno = 0, *v = strtoull(*text, &end, 10);
    if (errno || *end != separator) return false;
    return *text = end + (separator != 0), true;
}

/* Some numbers, comma separated. */
static bool read_numbers(Quantization *q, char *text, const float **to, int64_t *n)
{
    VEC(float) list = {0};
    for (double v;;) {
        char *comma = strchr(text, ',');
        if (!take_number(&text, comma ? ',' : 0, &v)) return false;
        vec_push(q->mem, &list, (float)v);
        if (!comma) break;
    }
    return *to = list.at, *n = list.n, list.n > 0;
}

static bool read_means(Row *row, char *text) { return read_numbers(row->q, text, &row->range->mean, &row->range->channels); }

static void write_means(FILE *f, const Range *r)
{
    for (int64_t c = 0; c < r->channels; c++) fprintf(f, "%s%.6g", c ? "," : "", r->mean[c]);
}
static bool has_means(const Range *r) { return r->mean != NULL; }

static bool read_gains(Row *row, char *text)
{
    Range *r = row->range;
    if (!read_numbers(row->q, text, &r->gain, &r->gains)) return false;
    for (int64_t c = 0; c < r->gains; c++)
        if (!(r->gain[c] > 0) || !isnormal(r->gain[c]) || !isnormal(1 / r->gain[c])) return false;
    return true;
}

static void write_gains(FILE *f, const Range *r)
{
    for (int64_t c = 0; c < r->gains; c++) fprintf(f, "%s%.9g", c ? "," : "", r->gain[c]);
}
static bool has_gains(const Range *r) { return r->gain != NULL; }

static bool read_rms(Row *row, char *text)
{
    Range *r = row->range;
    return take_number(&text, ',', &r->rms) && take_number(&text, 0, &r->row_peak) && r->rms >= 0 && r->row_peak >= 0;
}
static void write_rms(FILE *f, const Range *r) { fprintf(f, "%.6g,%.6g", r->rms, r->row_peak); }
static bool has_rms(const Range *r) { return r->rms > 0; }

static bool read_noise(Row *row, char *text)
{
    Range *r = row->range;
    return take_number(&text, ',', &r->tensor_db) && take_number(&text, 0, &r->row_db);
}
static void write_noise(FILE *f, const Range *r) { fprintf(f, "%.6g,%.6g", r->tensor_db, r->row_db); }
static bool has_noise(const Range *r) { return r->tensor_db > 0; }

static bool read_wide(Row *row, char *text)
{
    VEC(bool) list = {0};
    for (double v;;) {
        char *comma = strchr(text, ',');
        if (!take_number(&text, comma ? ',' : 0, &v) || (v != 0 && v != 1)) return false;
        vec_push(row->q->mem, &list, v == 1);
        if (!comma) break;
    }
    return row->range->wide = list.at, row->range->readers = list.n, true;
}

static void write_wide(FILE *f, const Range *r)
{
    for (int64_t i = 0; i < r->readers; i++) fprintf(f, "%s%d", i ? "," : "", r->wide[i]);
}
static bool has_wide(const Range *r) { return r->wide != NULL; }

static Statistic *row_stat(Row *row)
{
    if (!row->stat) row->stat = NEW(row->q->mem, Statistic), row->stat->bin = NEW_ARRAY(row->q->mem, uint64_t, STAT_BINS);
    return row->stat;
}

static bool read_seen(Row *row, char *text)
{
    Statistic *s = row_stat(row);
    return take_count(&text, ',', &s->seen) && take_count(&text, ',', &s->bad) && take_count(&text, 0, &s->samples) &&
           s->bad < s->seen && s->samples && s->samples <= s->seen;
}
static void write_seen(FILE *f, const Range *r)
{
    fprintf(f, "%" PRIu64 ",%" PRIu64 ",%" PRIu64, r->stat->seen, r->stat->bad, r->stat->samples);
}

static bool read_extremes(Row *row, char *text)
{
    Statistic *s = row_stat(row);
    return take_number(&text, ',', &s->lo) && take_number(&text, ',', &s->hi) && take_number(&text, ',', &s->sum_lo) &&
           take_number(&text, 0, &s->sum_hi) && s->lo <= s->hi;
}
static void write_extremes(FILE *f, const Range *r)
{
    fprintf(f, "%.17g,%.17g,%.17g,%.17g", r->stat->lo, r->stat->hi, r->stat->sum_lo, r->stat->sum_hi);
}

/* FROM,WIDTH:COUNT,... where COUNTxN is N equal counts. */
static bool read_bins(Row *row, char *text)
{
    Statistic *s = row_stat(row);
    if (!take_number(&text, ',', &s->from) || !take_number(&text, ':', &s->width) || !(s->width > 0)) return false;
    for (uint64_t i = 0; i < STAT_BINS;) {
        uint64_t count, times = 1;
        size_t n = strcspn(text, ",x");
        char next = text[n];
        if (!take_count(&text, next, &count)) return false;
        if (next == 'x' && (next = text[strcspn(text, ",")], !take_count(&text, next, &times))) return false;
        if (times > STAT_BINS - i || (next == ',') != (i + times < STAT_BINS)) return false;
        while (times--) s->bin[i++] = count;
    }
    return true;
}

static void write_bins(FILE *f, const Range *r)
{
    const Statistic *s = r->stat;
    fprintf(f, "%.17g,%.17g:", s->from, s->width);
    for (int i = 0, n; i < STAT_BINS; i += n) {
        for (n = 1; i + n < STAT_BINS && s->bin[i + n] == s->bin[i];) n++;
        fprintf(f, "%s%" PRIu64, i ? "," : "", s->bin[i]);
        if (n > 1) fprintf(f, "x%d", n);
    }
}

/* VALUES-OF-A-CHANNEL:SUM,... */
static bool read_sums(Row *row, char *text)
{
    ChannelSums *s = row->sums = NEW(row->q->mem, ChannelSums);
    VEC(double) sum = {0};
    if (!take_number(&text, ':', &s->seen) || !(s->seen > 0)) return false;
    for (double v;;) {
        char *comma = strchr(text, ',');
        if (!take_number(&text, comma ? ',' : 0, &v)) return false;
        vec_push(row->q->mem, &sum, v);
        if (!comma) break;
    }
    return s->sum = sum.at, s->channels = sum.n, sum.n > 0;
}

static void write_sums(FILE *f, const Range *r)
{
    fprintf(f, "%.17g", r->sums->seen);
    for (int64_t c = 0; c < r->sums->channels; c++) fprintf(f, "%c%.17g", c ? ',' : ':', r->sums->sum[c]);
}

static bool read_rows(Row *row, char *text)
{
    RowSums *s = row->rows = NEW(row->q->mem, RowSums);
    return take_count(&text, ',', &s->values) && take_count(&text, ':', &s->rows) && take_number(&text, ',', &s->square) &&
           take_number(&text, 0, &s->peak) && s->rows && s->rows <= s->values && s->square >= 0 && s->peak >= 0;
}

static void write_rows(FILE *f, const Range *r)
{
    const RowSums *s = r->rows;
    fprintf(f, "%" PRIu64 ",%" PRIu64 ":%.17g,%.17g", s->values, s->rows, s->square, s->peak);
}
static bool has_rows(const Range *r) { return r->rows != NULL; }

static bool has_stat(const Range *r) { return r->stat != NULL; }
static bool has_sums(const Range *r) { return r->sums && r->sums->sum; }

typedef struct Column {
    const char *key, *is;
    bool statistic; /* only where statistics are wanted */
    bool (*has)(const Range *r);
    bool (*read)(Row *row, char *text);
    void (*write)(FILE *f, const Range *r);
} Column;
static const Column columns[] = {
    {"means", "means of the channels, comma separated", false, has_means, read_means, write_means},
    {"gains", "gains of the channels, comma separated and above 0", false, has_gains, read_gains, write_gains},
    {"rms", "root mean squares of values and of rows' largest magnitudes", false, has_rms, read_rms, write_rms},
    {"noise", "dB of outputs over what 8 bits take, with one scale and with one for each row", false, has_noise, read_noise, write_noise},
    {"wide", "1 for each product of these values that multiplies 16 bits, or 0, in the model's order", false, has_wide, read_wide, write_wide},
    {"seen", "numbers of values, of infinite ones and NaN, of samples", true, has_stat, read_seen, write_seen},
    {"extremes", "lowest, highest, and their sums over the samples", true, has_stat, read_extremes, write_extremes},
    {"bins", "a histogram FROM,WIDTH:COUNT,..., COUNTxN for N equal counts", true, has_stat, read_bins, write_bins},
    {"sums", "values of a channel, and the sums of the channels, N:SUM,...", true, has_sums, read_sums, write_sums},
    {"rows", "numbers of values and rows, sums of squares, N,N:SUM,SUM", true, has_rows, read_rows, write_rows},
};

static const Column *column_find(const char *text)
{
    for (size_t i = 0; i < COUNT_OF(columns); i++) {
        size_t n = strlen(columns[i].key);
        if (!strncmp(columns[i].key, text, n) && text[n] == '=') return &columns[i];
    }
    return NULL;
}

/* ---- reading ---- */
static void head_line(Quantization *q, RangesHead *head, const char *text)
{
    const struct {
        const char *key, **value;
    } fields[] = {{"graph ", &head->graph}, {"content ", &head->content}, {"method ", &head->method}};
    for (size_t i = 0; i < COUNT_OF(fields); i++) {
        size_t n = strlen(fields[i].key);
        if (!strncmp(text, fields[i].key, n)) *fields[i].value = arena_text(q->mem, text + n, strlen(text + n));
    }
    if (!strncmp(text, "samples ", 8)) head->samples = (uint32_t)strtoul(text + 8, NULL, 10);
}

/* Statistics must agree with each other: somebody may have edited them. */
static bool row_holds(const Row *row)
{
    const Statistic *s = row->stat;
    uint64_t mass = 0;
    if (!s) return !row->sums && !row->rows;
    for (int i = 0; i < STAT_BINS; i++) mass += s->bin[i];
    return s->samples && s->width > 0 && mass == s->seen - s->bad && s->from <= s->lo && s->hi <= s->from + s->width * STAT_BINS;
}

static bool read_columns(Row *row, Diag *diag, const char *path, int line, char *text)
{
    const char *name = row->range->name;
    while (text) {
        char *next = strchr(text, '\t');
        if (next) *next++ = 0;
        const Column *c = column_find(text);
        if (!c) return diag_error(diag, NULL, "%s:%d: unknown column '%.20s' of '%s'", path, line, text, name);
        if (!c->read(row, text + strlen(c->key) + 1))
            return diag_error(diag, NULL, "%s:%d: column '%s' of '%s' must be %s", path, line, c->key, name, c->is);
        text = next;
    }
    if (!row_holds(row)) return diag_error(diag, NULL, "%s:%d: the statistics of '%s' do not agree with each other", path, line, name);
    row->range->stat = row->stat, row->range->sums = row->sums, row->range->rows = row->rows;
    return true;
}

static bool range_line(Quantization *q, RangesHead *head, Diag *diag, const char *path, int line, char *text)
{
    text[strcspn(text, "\r\n")] = 0;
    if (!strncmp(text, "#! ", 3)) return head_line(q, head, text + 3), true;
    if (!*text || *text == '#') return true;
    char *lo = strchr(text, '\t'), *hi = lo ? strchr(lo + 1, '\t') : NULL, *more = hi ? strchr(hi + 1, '\t') : NULL;
    double a, b;
    if (!hi) return diag_error(diag, NULL, "%s:%d: expected NAME<TAB>LOWEST<TAB>HIGHEST, found '%s'", path, line, text);
    *lo++ = 0, *hi++ = 0;
    if (more) *more++ = 0;
    if (!take_number(&lo, 0, &a) || !take_number(&hi, 0, &b) || a > b)
        return diag_error(diag, NULL, "%s:%d: the range of '%s' must be two finite numbers, the lower first", path,
                          line, text);
    Row row = {.q = q, .range = range_set(q, text, a, b)};
    row.range->mean = NULL, row.range->channels = 0, row.range->rms = row.range->row_peak = 0;
    row.range->gain = NULL, row.range->gains = 0, row.range->tensor_db = row.range->row_db = 0;
    row.range->wide = NULL, row.range->readers = 0;
    return read_columns(&row, diag, path, line, more);
}

bool ranges_read_head(Quantization *q, Diag *diag, const char *path, RangesHead *head)
{
    *head = (RangesHead){0};
    FILE *f = fopen(path, "r");
    if (!f) return diag_error(diag, NULL, "%s cannot be read: %s", path, strerror(errno));
    char *line = NULL;
    size_t room = 0;
    bool ok = true;
    for (int n = 1; getline(&line, &room, f) >= 0; n++) ok = range_line(q, head, diag, path, n, line) && ok;
    free(line), fclose(f);
    return ok;
}

bool ranges_read(Quantization *q, Diag *diag, const char *path)
{
    RangesHead head;
    return ranges_read_head(q, diag, path, &head);
}

/* ---- writing ---- */
static void print_lines(const Quantization *q, FILE *f, bool statistics)
{
    fputs("# name\tlowest\thighest", f);
    for (size_t i = 0; i < COUNT_OF(columns); i++)
        if (statistics || !columns[i].statistic) fprintf(f, "\t%s=%s", columns[i].key, columns[i].is);
    for (const Range *r = q->range.at; r < q->range.at + q->range.n; r++) {
        fprintf(f, "\n%s\t%.9g\t%.9g", r->name, r->lo, r->hi);
        for (size_t i = 0; i < COUNT_OF(columns); i++) {
            if ((columns[i].statistic && !statistics) || !columns[i].has(r)) continue;
            fprintf(f, "\t%s=", columns[i].key);
            columns[i].write(f, r);
        }
    }
    fputc('\n', f);
}

void ranges_print(const Quantization *q, FILE *f, const RangesHead *head)
{
    fprintf(f, "# %s\n#! graph %s\n#! samples %" PRIu32 "\n#! content %s\n#! method %s\n", head->model, head->graph,
            head->samples, head->content, head->method);
    print_lines(q, f, true);
}

bool ranges_write(const Quantization *q, Diag *diag, const char *path, const char *model)
{
    FILE *f = fopen(path, "w");
    if (!f) return diag_error(diag, NULL, "%s cannot be written: %s", path, strerror(errno));
    fprintf(f, "# %s\n", model);
    print_lines(q, f, false);
    if (fclose(f)) return diag_error(diag, NULL, "%s cannot be written: %s", path, strerror(errno));
    return true;
}
