/* report_svg.c - pictures of the report as inline SVG: the values of a tensor with the range chosen for them, and accuracy against latency.
 * Colours are classes of the page's style sheet, so light and dark are one picture. */
#include "frontend/report.h"
#include <math.h>

/* Names come out of files: markup is escaped, and bytes that are no text become the replacement character. */
static int utf8_length(const unsigned char *s) /* of the character at s, 0: none */
{
    int n = *s < 0x80 ? 1 : *s >= 0xc2 && *s < 0xe0 ? 2 : (*s & 0xf0) == 0xe0 ? 3 : *s >= 0xf0 && *s < 0xf5 ? 4 : 0;
    for (int i = 1; i < n; i++)
        if ((s[i] & 0xc0) != 0x80) return 0;
    bool overlong = (*s == 0xe0 && s[1] < 0xa0) || (*s == 0xf0 && s[1] < 0x90);
    bool beyond = (*s == 0xed && s[1] >= 0xa0) || (*s == 0xf4 && s[1] >= 0x90);
    bool control = n == 1 && (*s < 0x20 || *s == 0x7f), c1 = *s == 0xc2 && s[1] < 0xa0;
    bool noncharacter = *s == 0xef && s[1] == 0xbf && s[2] >= 0xbe;
    return overlong || beyond || control || c1 || noncharacter ? 0 : n;
}

void put_text(const char *text, FILE *f)
{
    static const struct {
        char c;
        const char *as;
    } escapes[] = {{'&', "&amp;"}, {'<', "&lt;"}, {'>', "&gt;"}, {'"', "&quot;"}, {'\'', "&#39;"}};
    for (const unsigned char *s = (const unsigned char *)text; *s;) {
        int n = utf8_length(s);
        const char *as = n ? NULL : "\xef\xbf\xbd";
        for (size_t i = 0; i < COUNT_OF(escapes); i++)
            if (*s == (unsigned char)escapes[i].c) as = escapes[i].as;
        if (as) fputs(as, f);
        else fwrite(s, 1, (size_t)n, f);
        s += n ? n : 1;
    }
}

/* ---- histograms ---- */
enum { BARS = 72, HIST_WIDTH = 360, HIST_HEIGHT = 84, HIST_LABELS = 18 };

typedef struct Span {
    double from, to;
} Span;

static double at_x(const Span *s, double v) { return HIST_WIDTH * (v - s->from) / (s->to - s->from); }

static void bars_of(const Statistic *st, const Span *s, double *bar)
{
    for (int i = 0; i < STAT_BINS; i++) {
        double x = st->from + (i + 0.5) * st->width;
        int b = (int)(BARS * (x - s->from) / (s->to - s->from));
        if (st->bin[i]) bar[b < 0 ? 0 : b >= BARS ? BARS - 1 : b] += (double)st->bin[i];
    }
}

void svg_histogram(const ReportLayer *l, FILE *f)
{
    const Statistic *st = l->range->stat;
    Span s = {fmin(st->lo, l->range->lo), fmax(st->hi, l->range->hi)};
    double bar[BARS] = {0}, most = 0;
    if (!(s.to > s.from)) s.from -= 0.5, s.to += 0.5;
    bars_of(st, &s, bar);
    for (int i = 0; i < BARS; i++) most = fmax(most, log1p(bar[i]));
    double lo = at_x(&s, l->range->lo), hi = at_x(&s, l->range->hi), width = (double)HIST_WIDTH / BARS;
    fprintf(f, "<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"histogram of ", HIST_WIDTH,
            HIST_HEIGHT + HIST_LABELS);
    put_text(l->range->name, f);
    fprintf(f, "\"><rect class=\"range\" x=\"%.1f\" y=\"0\" width=\"%.1f\" height=\"%d\"/><path class=\"bars\" d=\"",
            lo, fmax(1, hi - lo), HIST_HEIGHT);
    for (int i = 0; i < BARS; i++) {
        double h = most > 0 ? (HIST_HEIGHT - 6) * log1p(bar[i]) / most : 0;
        if (h > 0) fprintf(f, "M%.1f %dv%.1fh%.1fv%.1fz", i * width, HIST_HEIGHT, -h, width - 0.6, h);
    }
    fprintf(f, "\"/><path class=\"ends\" d=\"M%.1f 0V%dM%.1f 0V%d\"/><path class=\"axis\" d=\"M0 %dH%d\"/>", lo,
            HIST_HEIGHT, hi, HIST_HEIGHT, HIST_HEIGHT, HIST_WIDTH);
    fprintf(f, "<text x=\"0\" y=\"%d\">%.4g</text><text x=\"%d\" y=\"%d\" text-anchor=\"end\">%.4g</text>",
            HIST_HEIGHT + 13, s.from, HIST_WIDTH, HIST_HEIGHT + 13, s.to);
    if (s.from < 0 && s.to > 0 && at_x(&s, 0) > 60 && at_x(&s, 0) < HIST_WIDTH - 60)
        fprintf(f, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">0</text>", at_x(&s, 0), HIST_HEIGHT + 13);
    fputs("</svg>", f);
}

/* ---- accuracy against latency ---- */
enum { PLOT_WIDTH = 640, PLOT_HEIGHT = 260, PLOT_LEFT = 64, PLOT_RIGHT = 90, PLOT_TOP = 14, PLOT_BOTTOM = 46 };

/* A round step for about four parts of [0, most]. */
static double tick_step(double most)
{
    double p = pow(10, floor(log10(most / 4))), x = most / 4 / p;
    return p * (x > 5 ? 10 : x > 2 ? 5 : x > 1 ? 2 : 1);
}

typedef struct Scale {
    double most, step, from, to; /* from, to: pixels */
} Scale;

static Scale scale_of(double most, double from, double to)
{
    if (!(most > 0)) most = 1;
    double step = tick_step(most);
    return (Scale){step * ceil(most / step * 1.0001), step, from, to};
}

static double placed(const Scale *s, double v) { return s->from + (s->to - s->from) * v / s->most; }

static void plot_axes(const Scale *x, const Scale *y, const char *error, FILE *f)
{
    for (double v = 0; v <= y->most * 1.0001; v += y->step)
        fprintf(f, "<path class=\"grid\" d=\"M%d %.1fH%d\"/><text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.3g</text>",
                PLOT_LEFT, placed(y, v), PLOT_WIDTH - PLOT_RIGHT, PLOT_LEFT - 8, placed(y, v) + 4, v * 100);
    for (double v = 0; v <= x->most * 1.0001; v += x->step)
        fprintf(
            f, "<path class=\"grid\" d=\"M%.1f %dV%d\"/><text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%.3g</text>",
            placed(x, v), PLOT_TOP, PLOT_HEIGHT - PLOT_BOTTOM, placed(x, v), PLOT_HEIGHT - PLOT_BOTTOM + 16, v * 1e3);
    fprintf(f, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">milliseconds of a run</text>",
            (PLOT_LEFT + PLOT_WIDTH - PLOT_RIGHT) / 2, PLOT_HEIGHT - 8);
    fprintf(f, "<text transform=\"translate(16 %d) rotate(-90)\" text-anchor=\"middle\">",
            (PLOT_TOP + PLOT_HEIGHT - PLOT_BOTTOM) / 2);
    put_text(error, f), fputs("</text>", f);
}

/* Is another point at least as fast and as accurate, and better in one? */
static bool is_beaten(const ReportPoints *all, uint32_t i)
{
    const ReportPoint *p = &all->at.at[i];
    for (uint32_t k = 0; k < all->at.n; k++) {
        const ReportPoint *q = &all->at.at[k];
        if (q->seconds <= p->seconds && q->error <= p->error && (q->seconds < p->seconds || q->error < p->error))
            return true;
    }
    return false;
}

void svg_points(const ReportPoints *all, const char *error, FILE *f)
{
    double slowest = 0, worst = 0;
    for (uint32_t i = 0; i < all->at.n; i++)
        slowest = fmax(slowest, all->at.at[i].seconds), worst = fmax(worst, all->at.at[i].error);
    Scale x = scale_of(slowest, PLOT_LEFT, PLOT_WIDTH - PLOT_RIGHT),
          y = scale_of(worst, PLOT_HEIGHT - PLOT_BOTTOM, PLOT_TOP);
    fprintf(f, "<svg class=\"plot\" viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"error against latency\">",
            PLOT_WIDTH, PLOT_HEIGHT);
    plot_axes(&x, &y, error, f);
    for (uint32_t i = 0; i < all->at.n; i++) {
        const ReportPoint *p = &all->at.at[i];
        double px = placed(&x, p->seconds), py = placed(&y, p->error);
        fprintf(f, "<circle class=\"%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"5\"/>", is_beaten(all, i) ? "beaten" : "front", px,
                py);
        if (!p->name) continue;
        fprintf(f, "<text class=\"label\" x=\"%.1f\" y=\"%.1f\">", px + 9, py - 7);
        put_text(p->name, f);
        fputs("</text>", f);
    }
    fputs("</svg>", f);
}
