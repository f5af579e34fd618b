/* report_html.c - the report as one page: it needs no network, no script to be read (one sorts the table), and follows the
 * reader's light or dark. Everything that comes out of a model goes through put_text(). */
#include "frontend/budget.h"
#include "frontend/report.h"
#include <math.h>

static const char style[] =
    ":root{color-scheme:light "
    "dark;--paper:#fbfbfa;--card:#fff;--ink:#1b1f24;--soft:#57606a;--line:#d8dee4;--accent:#0b5cad;"
    "--wash:#dbe9f8;--good:#1a7f37;--bad:#b3261e;--warn:#8a5300;--warn-wash:#fff4d6}"
    "@media(prefers-color-scheme:dark){:root{--paper:#14171b;--card:#1c2026;--ink:#e6e9ed;--soft:#a0aab6;--line:#"
    "353c45;"
    "--accent:#7ab7f5;--wash:#1d3a57;--good:#6fcf86;--bad:#ff8f86;--warn:#f2c15f;--warn-wash:#3a2f14}}"
    "*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 "
    "system-ui,-apple-system,"
    "\"Segoe UI\",Roboto,sans-serif}main{max-width:1280px;margin:0 auto;padding:28px 20px 64px}"
    "h1{font-size:26px;margin:0;overflow-wrap:anywhere}h2{font-size:18px;margin:40px 0 10px}p{margin:6px "
    "0;max-width:78ch}"
    ".sub,figcaption,dt,.note{color:var(--soft)}code,.mono{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"
    "monospace;font-size:13px;"
    "overflow-wrap:anywhere}.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(148px,1fr));gap:12px;"
    "margin:22px 0}"
    ".card{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:12px "
    "14px;overflow-wrap:anywhere}"
    ".card b{display:block;font-size:23px;line-height:1.25;font-weight:600;font-variant-numeric:tabular-nums}.card "
    "h3{margin:0;"
    "font-size:13px;font-weight:500;color:var(--soft)}.card p{font-size:13px;color:var(--soft);margin:2px 0 0}"
    ".good{color:var(--good)}.bad{color:var(--bad)}.warning{background:var(--warn-wash);color:var(--warn);border-"
    "radius:8px;padding:10px 14px;"
    "margin:12px 0;max-width:none}.scroll{overflow-x:auto;border:1px solid "
    "var(--line);border-radius:8px;background:var(--card)}"
    "table{border-collapse:collapse;width:100%;font-size:13px;font-variant-numeric:tabular-nums}th,td{padding:6px "
    "10px;text-align:right;"
    "border-top:1px solid var(--line);white-space:nowrap;vertical-align:top}thead "
    "th{border-top:0;color:var(--soft);font-weight:500;"
    "position:sticky;top:0;background:var(--card)}th.t,td.t{text-align:left}td.name{white-space:normal;min-width:14em;"
    "max-width:27em;"
    "overflow-wrap:anywhere}td.name small{display:block;font:12px/1.35 system-ui,sans-serif;color:var(--soft)}tbody "
    "tr:hover{background:var(--wash)}"
    "th button{all:unset;cursor:pointer}th button:focus-visible{outline:2px solid "
    "var(--accent)}th[aria-sort=ascending] button::after{content:\" \\2191\"}"
    "th[aria-sort=descending] button::after{content:\" "
    "\\2193\"}.bar{display:inline-block;height:9px;background:var(--accent);"
    "border-radius:2px;vertical-align:middle;margin-left:6px;opacity:.75}ol.note{margin:8px "
    "0;padding-left:22px;font-size:13px}sup{color:var(--soft);margin-left:3px}"
    ".tag{border:1px solid var(--line);border-radius:10px;padding:0 "
    "7px;font-size:12px}.tag.on{background:var(--wash);color:var(--accent);"
    "border-color:transparent}.grid-of{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(300px,100%),1fr))"
    ";gap:14px}"
    "figure{margin:0;background:var(--card);border:1px solid var(--line);border-radius:8px;padding:12px "
    "14px}figcaption{font-size:13px;"
    "margin-bottom:6px;overflow-wrap:anywhere}figcaption "
    "strong{color:var(--ink);font-weight:600}svg{display:block;width:100%;height:auto}"
    "svg.plot{max-width:640px}svg text{fill:var(--soft);font-size:11.5px}svg "
    ".label{fill:var(--ink);font-size:13px}.bars{fill:var(--soft)}"
    ".range{fill:var(--wash)}.ends{stroke:var(--accent);stroke-width:1.5;fill:none}.axis,.grid{stroke:var(--line);fill:"
    "none}"
    ".front{fill:var(--accent)}.beaten{fill:none;stroke:var(--soft);stroke-width:1.5}"
    "dl{display:grid;grid-template-columns:max-content 1fr;gap:4px 18px;margin:0}dd{margin:0;overflow-wrap:anywhere}"
    "@media(max-width:640px){main{padding:18px 12px 48px}dl{grid-template-columns:1fr}dd{margin-bottom:8px}}"
    "@media print{.scroll{overflow:visible}thead th{position:static}}";

static const char script[] =
    "for(const t of document.querySelectorAll('table.sorts')){const "
    "b=t.tBodies[0],h=[...t.tHead.rows[0].cells];h.forEach((c,i)=>{"
    "const "
    "k=document.createElement('button');k.type='button';k.append(...c.childNodes);c.append(k);k.addEventListener('"
    "click',()=>{"
    "const up=c.getAttribute('aria-sort')!=='ascending';h.forEach(x=>x.removeAttribute('aria-sort'));"
    "c.setAttribute('aria-sort',up?'ascending':'descending');const v=r=>{const d=r.cells[i],n=d.dataset.v;return "
    "n===undefined?d.textContent:"
    "n===''?Infinity:+n};[...b.rows].sort((p,q)=>{const x=v(p),y=v(q);const o=typeof "
    "x==='string'?x.localeCompare(y):x-y;"
    "return(up?1:-1)*(isNaN(o)?0:o)}).forEach(r=>b.append(r))})})}";

/* ---- pieces ---- */
static const char *size_text(double bytes, Arena *mem)
{
    return bytes >= 1e9   ? arena_printf(mem, "%.2f GB", bytes / 1e9)
           : bytes >= 1e6 ? arena_printf(mem, "%.2f MB", bytes / 1e6)
           : bytes >= 1e3 ? arena_printf(mem, "%.1f kB", bytes / 1e3)
                          : arena_printf(mem, "%.0f B", bytes);
}

static const char *time_text(double seconds, Arena *mem)
{
    return seconds >= 1      ? arena_printf(mem, "%.2f s", seconds)
           : seconds >= 1e-3 ? arena_printf(mem, "%.3g ms", seconds * 1e3)
                             : arena_printf(mem, "%.3g \xc2\xb5s", seconds * 1e6);
}

static void card(const char *title, const char *value, const char *more, FILE *f)
{
    fputs("<div class=\"card\"><h3>", f), put_text(title, f), fputs("</h3><b>", f), put_text(value, f),
        fputs("</b>", f);
    if (more) fputs("<p>", f), put_text(more, f), fputs("</p>", f);
    fputs("</div>\n", f);
}

static void warning(const char *text, FILE *f)
{
    fputs("<p class=\"warning\">", f), put_text(text, f), fputs("</p>\n", f);
}

static void heading(const char *text, FILE *f) { fputs("<h2>", f), put_text(text, f), fputs("</h2>\n", f); }

/* A cell with a number, which sorts by it. */
static void cell(const char *format, double v, double shown, FILE *f) PRINTF_LIKE(1, 0);
static void cell(const char *format, double v, double shown, FILE *f)
{
    if (isnan(v)) fputs("<td data-v=\"\">\xe2\x80\x93</td>", f);
    else if (isinf(v)) fputs("<td data-v=\"1e308\">equal</td>", f);
    else fprintf(f, "<td data-v=\"%.9g\">", v), fprintf(f, format, shown), fputs("</td>", f);
}

static void text_cell(const char *kind, const char *s, FILE *f)
{
    fprintf(f, "<td class=\"%s\">", kind), put_text(s, f), fputs("</td>", f);
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash && slash[1] ? slash + 1 : path;
}

/* ---- sections ---- */
static const char *what_made(const Report *r) { return r->precision ? r->precision : r->policy->fp32; }

static void put_accuracy_card(const Report *r, Arena *mem, FILE *f)
{
    const OutputFigures *worst = NULL, *scores = NULL;
    for (uint32_t i = 0; i < r->measured->outputs; i++) {
        const OutputFigures *o = &r->measured->output[i];
        if (o->is_float && o->samples && (!worst || o->sqnr < worst->sqnr)) worst = o;
        if (o->scores && (!scores || o->agree * scores->rows < scores->agree * o->rows)) scores = o;
    }
    if (scores)
        card("Top-1 agreement with float",
             arena_printf(mem, "%.2f %%", 100 * (double)scores->agree / (double)scores->rows),
             arena_printf(mem, "95 %% interval %.1f to %.1f %%; %u samples", 100 * scores->low, 100 * scores->high,
                          scores->samples),
             f);
    if (worst)
        card("Worst output against float", isinf(worst->sqnr) ? "equal" : arena_printf(mem, "%.1f dB", worst->sqnr),
             arena_printf(mem, "SQNR of %s; cosine %.5f", worst->name, worst->cosine), f);
}

static void put_cards(const Report *r, Arena *mem, FILE *f)
{
    const Measured *m = r->measured;
    fputs("<div class=\"cards\">\n", f);
    if (m) put_accuracy_card(r, mem, f);
    if (m && m->program[0].runs && m->program[1].runs) {
        const ProgramFigures *a = &m->program[0], *b = &m->program[1];
        card("A run takes", time_text(b->median, mem),
             arena_printf(mem, "%.2f times as fast as float (%s)", a->median / b->median, time_text(a->median, mem)),
             f);
        card("Working memory", size_text((double)b->memory, mem),
             arena_printf(mem, "float: %s", size_text((double)a->memory, mem)), f);
    }
    card("Artefact", size_text((double)r->artefact_bytes, mem),
         arena_printf(mem, "%.2f of the model file (%s)", (double)r->artefact_bytes / fmax(1, (double)r->model_bytes),
                      size_text((double)r->model_bytes, mem)),
         f);
    if (r->quantized || r->came)
        card("Integer contractions", arena_printf(mem, "%u of %u", r->integers, r->layers),
             r->beside ? arena_printf(mem, "%u others have 8-bit weights, the rest stays float, each with its reason below", r->beside)
                       : "the others stay float, each with its reason below",
             f);
    card("Compile time", time_text(r->compile_seconds, mem), "calibration included, measuring for this report not", f);
    fputs("</div>\n", f);
}

static void put_warnings(const Report *r, FILE *f)
{
    if (r->calibration == CALIBRATION_RANDOM)
        warning("The samples are random numbers: ranges and accuracy on this page say nothing about real inputs.", f);
    if (!r->measured)
        warning("Nothing was measured: there are no samples to run (--calibrate). Accuracy and latency are unknown.",
                f);
    if (r->measured && r->calibration == CALIBRATION_SAMPLES && r->quantized)
        fputs("<p class=\"note\">Accuracy is measured on the samples that the ranges come from, so it flatters a "
              "little: judge on data of your own. "
              "The reference is the float model compiled by the same compiler.</p>\n",
              f);
    if (r->advice) warning(r->advice, f);
    if (r->policy->why) warning(r->policy->why, f);
}

static void put_outputs(const Measured *m, FILE *f)
{
    heading("Outputs against float", f);
    fputs("<div class=\"scroll\"><table><thead><tr><th class=\"t\" scope=\"col\">output</th><th "
          "scope=\"col\">samples</th><th scope=\"col\">SQNR dB</th>"
          "<th scope=\"col\">lowest dB</th><th scope=\"col\">its sample</th><th scope=\"col\">cosine</th><th "
          "scope=\"col\">&plusmn; (95 %)</th>"
          "<th scope=\"col\">top-1 or equal %</th><th scope=\"col\">95 % interval</th></tr></thead><tbody>\n",
          f);
    for (uint32_t i = 0; i < m->outputs; i++) {
        const OutputFigures *o = &m->output[i];
        bool rows = o->rows && (o->scores || !o->is_float);
        fputs("<tr>", f), text_cell("t name", o->name, f);
        cell("%.0f", o->samples, o->samples, f), cell("%.1f", o->sqnr, o->sqnr, f), cell("%.1f", o->worst, o->worst, f);
        cell("%.0f", isnan(o->worst) ? (double)NAN : o->worst_at, o->worst_at, f);
        cell("%.6f", o->cosine, o->cosine, f), cell("%.2g", o->cosine_half, o->cosine_half, f);
        double part = rows ? (double)o->agree / (double)o->rows : (double)NAN;
        cell("%.2f", part, part * 100, f);
        if (rows) fprintf(f, "<td>%.1f to %.1f</td>", 100 * o->low, 100 * o->high);
        else fputs("<td>\xe2\x80\x93</td>", f);
        fputs("</tr>\n", f);
    }
    fputs("</tbody></table></div>\n", f);
}

static void put_points(const Report *r, FILE *f)
{
    if (!r->point.at.n) return;
    heading("Accuracy against latency", f);
    fputs("<figure>", f);
    svg_points(&r->point, "error, % of the output", f);
    fprintf(f,
            "<figcaption>Lower and further left is better. Median of %u runs on the first sample, %s, %d thread%s. "
            "Error: of the worst output, "
            "difference from float over its size (Euclidean norms, all samples).</figcaption></figure>\n",
            r->measured->program[1].runs, r->measured->level, r->measured->threads,
            r->measured->threads == 1 ? "" : "s");
}

static void put_budget(const Report *r, Arena *mem, FILE *f)
{
    const Budget *b = r->budget ? r->budget->budget : NULL;
    if (!b || !b->regions) return;
    heading("The budget", f);
    fputs("<p>", f);
    put_text(
        arena_printf(
            mem,
            "At most %g %% may be lost (%s). The choice loses %.3g %% on %u samples that judge; %s%.3g %%. %u of %u "
            "regions went back to float.",
            b->max_loss * 100, b->command ? "--metric-cmd" : b->metric, b->loss * 100, b->samples[1],
            b->shown ? "with 95 % confidence it loses less than " : "too few rows for a bound, taken as ",
            b->bound * 100, b->reverted, b->regions),
        f);
    fputs("</p>\n", f);
    if (r->tried.at.n < 2) return;
    fputs("<figure>", f);
    svg_points(&r->tried, "loss, %", f);
    fputs("<figcaption>What the search tried, on one thread: filled where nothing else is both faster and better. "
          "Named points were "
          "compiled and judged, the others are predicted on the samples of the search.</figcaption></figure>\n",
          f);
}

/* ---- layers ---- */
/* Reasons why layers stay float are few: a number each, from 1; 0: the layer has none. */
static uint32_t reason_number(const Report *r, const ReportLayer *of)
{
    uint32_t number = 0;
    if (!of->layer->why) return 0;
    for (uint32_t i = 0; i < r->layers; i++) {
        const char *why = r->layer[i].layer->why;
        bool again = !why;
        for (uint32_t k = 0; k < i && !again; k++)
            again = r->layer[k].layer->why && !strcmp(r->layer[k].layer->why, why);
        number += !again;
        if (why && !strcmp(why, of->layer->why)) return number;
    }
    return number;
}

static void put_reasons(const Report *r, FILE *f)
{
    uint32_t listed = 0;
    if (r->integers + r->beside == r->layers) return;
    fputs("<ol class=\"note\">\n", f);
    for (uint32_t i = 0; i < r->layers; i++) {
        if (reason_number(r, &r->layer[i]) <= listed) continue;
        listed++;
        fputs("<li>float because ", f), put_text(r->layer[i].layer->why, f), fputs("</li>\n", f);
    }
    fputs("</ol>\n", f);
}

static bool has_codes(const ReportLayer *l) { return l->layer->state != LAYER_FLOAT; }

static bool has_errors(const Report *r) /* of a method against rounding to nearest */
{
    bool known = false;
    for (uint32_t i = 0; i < r->layers; i++)
        known = known || (has_codes(&r->layer[i]) && isfinite(r->layer[i].layer->error));
    return known;
}

static void put_weights_cells(const Report *r, const ReportLayer *l, Arena *mem, FILE *f)
{
    static const char none[] = "<td data-v=\"\">\xe2\x80\x93</td>";
    const Layer *y = l->layer;
    text_cell("t", has_codes(l) ? arena_printf(mem, "%s, %s", report_weight_type(y), y->method ? y->method : r->came ? "as it came" : "rtn") : "\xe2\x80\x93", f);
    cell("%.1f", has_codes(l) ? y->weight_sqnr : (double)NAN, y->weight_sqnr, f);
    if (has_codes(l)) fprintf(f, "<td data-v=\"%.9g\">%s</td>", l->bytes, size_text(l->bytes, mem));
    else fputs(none, f);
    if (!has_errors(r)) return;
    cell("%.3g", has_codes(l) ? y->error_nearest : (double)NAN, y->error_nearest * 100, f);
    cell("%.3g", has_codes(l) ? y->error : (double)NAN, y->error * 100, f);
}

static const char *micro_text(double seconds, Arena *mem)
{
    double us = seconds * 1e6;
    return us >= 999.5 ? arena_printf(mem, "%.0f", us) : arena_printf(mem, "%.3g", us);
}

static void time_cell(double seconds, double slowest, Arena *mem, FILE *f) /* slowest 0: without a bar */
{
    if (isnan(seconds)) fputs("<td data-v=\"\">\xe2\x80\x93</td>", f);
    else if (slowest <= 0) fprintf(f, "<td data-v=\"%.9g\">%s</td>", seconds, micro_text(seconds, mem));
    else
        fprintf(f, "<td class=\"t\" data-v=\"%.9g\">%s<span class=\"bar\" style=\"width:%.1fem\"></span></td>", seconds,
                micro_text(seconds, mem), 5 * seconds / slowest);
}

static void put_rewritings(const LayerTried *t, FILE *f)
{
    for (int k = 0; t && k < REWRITINGS; k++)
        if (t->by[k].judged)
            fprintf(f, "<small>%s%s: %.1f dB, without it %.1f</small>", report_rewritings[k], t->by[k].taken ? "" : " given up", t->by[k].after, t->by[k].before);
}

static void put_layer(const Report *r, const ReportLayer *l, uint32_t i, double slowest, Arena *mem, FILE *f)
{
    uint32_t reason = reason_number(r, l);
    const char *fallback = has_codes(l) ? l->layer->fallback : NULL;
    fprintf(f, "<tr><td data-v=\"%u\">%u</td><td class=\"t name mono\">", i + 1, i + 1), put_text(l->name, f);
    if (fallback) fputs("<small>weights to nearest: ", f), put_text(fallback, f), fputs("</small>", f);
    put_rewritings(l->layer->tried, f);
    fputs("</td>", f), text_cell("t", l->layer->loc->op, f);
    if (reason) fprintf(f, "<td class=\"t\"><span class=\"tag\">float</span><sup>%u</sup></td>", reason);
    else if (l->integer) fprintf(f, "<td class=\"t\"><span class=\"tag on\">int%d</span></td>", l->layer->wide || dtypes[l->layer->x].bits == 16 ? 16 : 8);
    else fprintf(f, "<td class=\"t\"><span class=\"tag on\">%s weights</span></td>", report_weight_type(l->layer));
    const char *smooth = l->integer && l->layer->smooth ? "<small>channels smoothed</small>" : "";
    if (l->integer && l->layer->rows) fprintf(f, "<td>of each row%s</td>", smooth);
    else if (l->integer && !l->layer->x) fprintf(f, "<td>%.4g to %.4g%s</td>", l->layer->lo, l->layer->hi, smooth);
    else fputs("<td>\xe2\x80\x93</td>", f);
    cell("%.3g", l->clipped, l->clipped * 100, f);
    put_weights_cells(r, l, mem, f);
    if (r->alone) cell("%.1f", l->alone, l->alone, f);
    cell("%.1f", has_codes(l) ? l->layer->sqnr : (double)NAN, l->layer->sqnr, f);
    if (r->costs) cell(l->layer->spared ? "(%.3g)" : "%.3g", has_codes(l) ? l->layer->cost : (double)NAN, l->layer->cost * 1e3, f);
    if (r->measured) {
        time_cell(l->plain, 0, mem, f), time_cell(l->made, slowest, mem, f);
        cell("%.2f", l->plain / l->made, l->plain / l->made, f);
    }
    fputs("</tr>\n", f);
}

static void put_rest(const Report *r, Arena *mem, FILE *f)
{
    double rest[2];
    for (int k = 0; k < 2; k++) {
        rest[k] = r->measured->program[k].steps;
        for (uint32_t i = 0; i < r->layers; i++) {
            double t = k ? r->layer[i].made : r->layer[i].plain;
            rest[k] -= isnan(t) ? 0 : t;
        }
    }
    fprintf(f,
            "<p class=\"note\">Steps of no contraction take %s of %s in the float program and %s of %s here. Steps are "
            "timed "
            "one by one, which costs a little more than a run.</p>\n",
            time_text(fmax(0, rest[0]), mem), time_text(r->measured->program[0].steps, mem),
            time_text(fmax(0, rest[1]), mem), time_text(r->measured->program[1].steps, mem));
}

static void column(const char *name, bool is_text, FILE *f)
{
    fprintf(f, "<th%s scope=\"col\">%s</th>", is_text ? " class=\"t\"" : "", name);
}

static void put_columns(const Report *r, FILE *f)
{
    column("#", false, f), column("layer", true, f), column("operator", true, f), column("type", true, f);
    column("range", false, f), column("clipped %", false, f), column("weights", true, f),
        column("weights dB", false, f);
    column("bytes", false, f);
    if (has_errors(r)) column("nearest err. %", false, f), column("err. %", false, f);
    if (r->alone) column("alone dB", false, f);
    column("output dB", false, f);
    if (r->costs) column(r->costs->scores ? "costs mnat" : "costs \xe2\x80\xb0", false, f);
    if (!r->measured) return;
    column("float \xc2\xb5s", false, f), column("now \xc2\xb5s", true, f), column("speed-up", false, f);
}

static void put_layers(const Report *r, Arena *mem, FILE *f)
{
    double slowest = 0;
    if (!r->layers) return;
    for (uint32_t i = 0; i < r->layers; i++)
        if (r->layer[i].made > slowest) slowest = r->layer[i].made;
    heading("Layers", f);
    if (r->costs)
        fprintf(f,
                "<p class=\"note\">Costs: what rounding the layer's %s to few bits costs the outputs, %s; in brackets where that was too much, so that it has more bits. "
                "The others cost %.3g together, %s %.3g.</p>\n",
                r->rounds_values ? "values" : "weights", r->costs->scores ? "in thousandths of a nat of divergence" : "in thousandths of their energy", r->costs->left * 1e3,
                r->costs->left > r->costs->bound ? "as many having more as may; wanted were" : "at most", r->costs->bound * 1e3);
    fputs(
        "<p class=\"note\">The contractions in the model's order. Activations of int8 ones are u8, asymmetric, per "
        "tensor or per row, channels smoothed where they were divided by gains (SmoothQuant); weights s8, symmetric, per channel. Output dB: of the layer's output while the whole model "
        "is "
        "quantized; alone: while only this layer is. With scripts on, a click on a heading sorts.</p>\n"
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"layers\"><table class=\"sorts\"><thead><tr>",
        f);
    put_columns(r, f);
    fputs("</tr></thead><tbody>\n", f);
    for (uint32_t i = 0; i < r->layers; i++) put_layer(r, &r->layer[i], i, slowest, mem, f);
    fputs("</tbody></table></div>\n", f);
    put_reasons(r, f);
    if (r->measured && r->measured->program[0].steps > 0) put_rest(r, mem, f);
}

static void put_histograms(const Report *r, FILE *f)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < r->layers; i++) n += r->layer[i].range && r->layer[i].range->stat;
    if (!n) return;
    heading("Activations and their ranges", f);
    fputs("<p class=\"note\">All values seen in calibration, counts on a logarithmic scale. The shaded part is what "
          "the 256 codes cover; values outside "
          "are clipped.</p>\n<div class=\"grid-of\">\n",
          f);
    for (uint32_t i = 0; i < r->layers; i++) {
        const ReportLayer *l = &r->layer[i];
        bool again = false;
        if (!l->range || !l->range->stat) continue;
        for (uint32_t k = 0; k < i; k++) again = again || r->layer[k].range == l->range;
        if (again) continue;
        fputs("<figure><figcaption><strong>", f), put_text(l->range->name, f), fputs("</strong><br>into ", f),
            put_text(l->name, f);
        fprintf(f, "; range %.4g to %.4g", l->range->lo, l->range->hi);
        if (l->clipped > 0) fprintf(f, ", %.3g %% clipped", l->clipped * 100);
        fputs("</figcaption>", f);
        svg_histogram(l, f);
        fputs("</figure>\n", f);
    }
    fputs("</div>\n", f);
}

static void fact(const char *name, const char *value, FILE *f)
{
    if (!value || !*value) return;
    fputs("<dt>", f), put_text(name, f), fputs("</dt><dd>", f), put_text(value, f), fputs("</dd>\n", f);
}

static void put_facts(const Report *r, Arena *mem, FILE *f)
{
    static const char *const grades[] = {[CALIBRATION_SAMPLES] = "from samples",
                                         [CALIBRATION_RANGES] = "from a file of ranges",
                                         [CALIBRATION_RANDOM] = "RANDOM NUMBERS, worth nothing",
                                         [CALIBRATION_NONE] = NULL};
    const Measured *m = r->measured;
    const WinogradNote *w = r->winograd;
    heading("How it was made", f);
    fputs("<dl>\n", f);
    fact("model", r->model, f), fact("flags", r->flags, f),
        fact("compiler", arena_printf(mem, "octet %s", r->version), f), fact("target", r->target, f);
    fact("calibration", grades[r->calibration], f), fact("samples", r->samples, f), fact("range method", r->method, f);
    fact("float products", r->policy->fp32, f);
    if (r->policy->storage) fact("values are stored as", r->policy->storage, f);
    if (r->policy->measured)
        fact("difference of the policy",
             arena_printf(mem, "%.2g of the worst output, at most %.2g of its largest value, on %s",
                          r->policy->difference.relative, r->policy->difference.largest,
                          report_measured_on(r->policy, mem)),
             f);
    if (w->convs)
        fact("Winograd",
             arena_printf(mem, "%u of %u float convolutions, sampled error at most %.1e", w->convs, w->of, w->error),
             f);
    if (m) {
        fact("measured",
             m->artefact ? "the artefact itself, against the float model built for this machine"
                         : "the model built for this machine (the artefact does not run here), against the float model",
             f);
        fact("instruction set", m->level, f);
        fact("runs timed",
             arena_printf(mem, "%u each, in turns; least %.4g ms, float %.4g ms", m->program[1].runs,
                          m->program[1].least * 1e3, m->program[0].least * 1e3),
             f);
    }
    fputs("</dl>\n", f);
}

static const char meaning[] = "<h2>What the numbers mean</h2>\n<dl>\n<dt>SQNR</dt><dd>Energy of the float values over "
                              "the energy of the difference, in decibels: 20 dB is an error "
                              "of 10 %, 40 dB of 1 %. Lower is worse.</dd>\n<dt>cosine</dt><dd>Of the angle between "
                              "the float output and this one; mean of the samples.</dd>\n"
                              "<dt>top-1</dt><dd>Rows whose largest value is at the same place, for outputs that look "
                              "like scores of classes: their softmax favours some. The "
                              "interval is Wilson's with one trial a sample.</dd>\n<dt>clipped</dt><dd>Activation "
                              "values seen in calibration that lie outside of the range.</dd>\n"
                              "<dt>bytes</dt><dd>Of the layer's weights as codes, without scales.</dd>\n</dl>\n";

void report_html(const Report *r, FILE *f)
{
    Arena mem = {0};
    fputs("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n<meta name=\"viewport\" "
          "content=\"width=device-width, initial-scale=1\">\n"
          "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
          "script-src 'unsafe-inline'\">\n<title>",
          f);
    put_text(base_name(r->model), f);
    fprintf(f, ": Octet report</title>\n<style>%s</style></head>\n<body><main>\n<h1>", style);
    put_text(base_name(r->model), f), fputs("</h1>\n<p class=\"sub\">", f), put_text(what_made(r), f);
    fputs(" \xc2\xb7 target ", f), put_text(r->target, f), fputs(" \xc2\xb7 octet ", f), put_text(r->version, f),
        fputs("</p>\n", f);
    put_cards(r, &mem, f), put_warnings(r, f);
    if (r->measured) put_outputs(r->measured, f);
    put_points(r, f), put_budget(r, &mem, f), put_layers(r, &mem, f), put_histograms(r, f), put_facts(r, &mem, f);
    fputs(meaning, f);
    fprintf(f, "</main>\n<script>%s</script>\n</body></html>\n", script);
    arena_drop(&mem);
}
