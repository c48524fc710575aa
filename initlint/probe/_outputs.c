/* Statistics of a block of single-precision outputs: the compiled twin of summary.py.
 *
 * Sums are double precision in eight lanes, which are added in order: the same numbers whatever the
 * processor. The interpreter's lock is released while sums run. initlint works without this module.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define LANES 8

/* Twins of a function for wider vectors, of which the loader takes the widest that the processor
 * has. None fuses products with sums (setup: no contraction), so all give the same bits. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define WIDE __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define WIDE
#endif

struct sums {
    double sum, squares;
    int64_t zeros;
};

static double add_lanes(const double lanes[LANES])
{
    double sum = 0;
    for (int lane = 0; lane < LANES; lane++)
        sum += lanes[lane];
    return sum;
}

WIDE static struct sums add_elements(const float *x, size_t n)
{
    double sum[LANES] = {0}, squares[LANES] = {0};
    struct sums t = {0, 0, 0};
    size_t i = 0;

    for (; i + LANES <= n; i += LANES)
        for (int lane = 0; lane < LANES; lane++) {
            double wide = x[i + lane];
            sum[lane] += wide;
            squares[lane] += wide * wide;
        }
    for (int lane = 0; i < n; i++, lane++) {
        double wide = x[i];
        sum[lane] += wide;
        squares[lane] += wide * wide;
    }
    for (i = 0; i < n;) {
        int32_t zeros = 0;
        size_t stop = n - i < INT32_MAX ? n : i + INT32_MAX;
        for (; i < stop; i++)
            zeros += x[i] == 0.0f;
        t.zeros += zeros;
    }
    t.sum = add_lanes(sum);
    t.squares = add_lanes(squares);
    return t;
}

/* Extremes of every column of a table; low and high hold the first row. */
WIDE static void add_rows(const float *x, size_t rows, size_t columns, float *low, float *high)
{
    for (size_t row = 0; row < rows; row++, x += columns)
        for (size_t i = 0; i < columns; i++) {
            low[i] = x[i] < low[i] ? x[i] : low[i];
            high[i] = x[i] > high[i] ? x[i] : high[i];
        }
}

static int fits(const Py_buffer *view, size_t item, size_t count)
{
    return (size_t)view->len == item * count && (uintptr_t)view->buf % item == 0;
}

static PyObject *refuse(void)
{
    PyErr_SetString(PyExc_ValueError, "a buffer does not have the stated size");
    return NULL;
}

static PyObject *summary(PyObject *module, PyObject *args)
{
    Py_buffer block, low, high;
    Py_ssize_t outer, units, after;
    struct sums t;
    PyObject *found = NULL;

    (void)module;
    if (!PyArg_ParseTuple(args, "y*nnnw*w*:summary", &block, &outer, &units, &after, &low, &high))
        return NULL;
    if (outer < 1 || units < 1 || after < 1 || units > PY_SSIZE_T_MAX / 4 / after ||
        outer > PY_SSIZE_T_MAX / 4 / (units * after) ||
        !fits(&block, 4, (size_t)(outer * units * after)) || !fits(&low, 4, (size_t)units) ||
        !fits(&high, 4, (size_t)units)) {
        refuse();
    } else {
        size_t columns = (size_t)(units * after);
        float *least = low.buf, *most = high.buf, *ends = malloc(2 * columns * sizeof *ends);
        if (!ends) {
            PyErr_NoMemory();
        } else {
            Py_BEGIN_ALLOW_THREADS
            t = add_elements(block.buf, (size_t)outer * columns);
            memcpy(ends, block.buf, columns * sizeof *ends);
            memcpy(ends + columns, block.buf, columns * sizeof *ends);
            add_rows(block.buf, (size_t)outer, columns, ends, ends + columns);
            for (size_t i = 0; i < columns; i++) {
                size_t unit = i / (size_t)after;
                int first = i % (size_t)after == 0;
                least[unit] = first || ends[i] < least[unit] ? ends[i] : least[unit];
                most[unit] =
                    first || ends[columns + i] > most[unit] ? ends[columns + i] : most[unit];
            }
            Py_END_ALLOW_THREADS
            free(ends);
            found = Py_BuildValue("ddL", t.sum, t.squares, (long long)t.zeros);
        }
    }
    PyBuffer_Release(&block);
    PyBuffer_Release(&low);
    PyBuffer_Release(&high);
    return found;
}

WIDE static double add_deviations(const float *x, size_t n, double centre)
{
    double squares[LANES] = {0};
    size_t i = 0;

    for (; i + LANES <= n; i += LANES)
        for (int lane = 0; lane < LANES; lane++) {
            double d = x[i + lane] - centre;
            squares[lane] += d * d;
        }
    for (int lane = 0; i < n; i++, lane++) {
        double d = x[i] - centre;
        squares[lane] += d * d;
    }
    return add_lanes(squares);
}

static PyObject *deviation(PyObject *module, PyObject *args)
{
    Py_buffer block;
    double centre;
    PyObject *found = NULL;

    (void)module;
    if (!PyArg_ParseTuple(args, "y*d:deviation", &block, &centre))
        return NULL;
    if (!fits(&block, 4, (size_t)block.len / 4)) {
        refuse();
    } else {
        double squares;
        Py_BEGIN_ALLOW_THREADS
        squares = add_deviations(block.buf, (size_t)block.len / 4, centre);
        Py_END_ALLOW_THREADS
        found = PyFloat_FromDouble(squares);
    }
    PyBuffer_Release(&block);
    return found;
}

struct contrast {
    double pairs, variance;
    int64_t moving;
};

/* Rows are samples; work holds three times columns doubles, the first two thirds zero. */
WIDE static void compare(const float *x, size_t rows, size_t width, const int64_t *chosen,
                    size_t columns, double *work, struct contrast *out)
{
    double *mean = work, *direction = work + columns, *row = work + 2 * columns;
    double total[LANES] = {0};

    for (size_t r = 0; r < rows; r++) {
        const float *source = x + r * width;
        double squares[LANES] = {0}; /* those of single precision stay far inside double */
        size_t c = 0;
        for (size_t i = 0; i < columns; i++)
            row[i] = chosen ? source[chosen[i]] : source[i];
        for (size_t i = 0; i < columns; i++)
            mean[i] += row[i];
        for (; c + LANES <= columns; c += LANES)
            for (int lane = 0; lane < LANES; lane++)
                squares[lane] += row[c + lane] * row[c + lane];
        for (int lane = 0; c < columns; c++, lane++)
            squares[lane] += row[c] * row[c];
        double length = add_lanes(squares);
        if (!(length > 0))
            continue;
        out->moving++;
        length = 1 / sqrt(length);
        for (c = 0; c < columns; c++)
            direction[c] += row[c] * length;
    }
    for (size_t c = 0; c < columns; c++)
        mean[c] /= (double)rows;
    for (size_t r = 0; r < rows; r++) {
        const float *source = x + r * width;
        for (size_t c = 0; c < columns; c++)
            row[c] = (chosen ? source[chosen[c]] : source[c]) - mean[c];
        size_t c = 0;
        for (; c + LANES <= columns; c += LANES)
            for (int lane = 0; lane < LANES; lane++)
                total[lane] += row[c + lane] * row[c + lane];
        for (int lane = 0; c < columns; c++, lane++)
            total[lane] += row[c] * row[c];
    }
    out->variance = add_lanes(total) / (double)(rows - 1) / (double)columns;
    for (size_t c = 0; c < columns; c++)
        out->pairs += direction[c] * direction[c];
}

static PyObject *contrast(PyObject *module, PyObject *args)
{
    Py_buffer block, chosen;
    Py_ssize_t rows;
    struct contrast out = {0, 0, 0};
    PyObject *found = NULL;

    (void)module;
    if (!PyArg_ParseTuple(args, "y*ny*:contrast", &block, &rows, &chosen))
        return NULL;
    size_t width = rows > 1 ? (size_t)block.len / 4 / (size_t)rows : 0;
    size_t kept = (size_t)chosen.len / 8, columns = kept ? kept : width;
    int usable = width > 0 && fits(&block, 4, width * (size_t)rows) && fits(&chosen, 8, kept);
    const int64_t *places = kept ? chosen.buf : NULL;
    for (size_t i = 0; usable && i < kept; i++)
        usable = places[i] >= 0 && (size_t)places[i] < width;
    double *work = usable ? calloc(3 * columns, sizeof *work) : NULL;
    if (!usable) {
        refuse();
    } else if (work == NULL) {
        PyErr_NoMemory();
    } else {
        Py_BEGIN_ALLOW_THREADS
        compare(block.buf, (size_t)rows, width, places, columns, work, &out);
        Py_END_ALLOW_THREADS
        found = Py_BuildValue("dLd", out.pairs, (long long)out.moving, out.variance);
    }
    free(work);
    PyBuffer_Release(&block);
    PyBuffer_Release(&chosen);
    return found;
}

/* Adds the rows of unit length, one for each of `after` positions; how many are not all zero. */
WIDE static int64_t add_directions(const float *x, size_t units, size_t after, double *length,
                              double *total)
{
    int64_t active = 0;

    for (size_t a = 0; a < after; a++)
        length[a] = 0;
    for (size_t u = 0; u < units; u++)
        for (size_t a = 0; a < after; a++) {
            double v = x[u * after + a];
            length[a] += v * v;
        }
    for (size_t a = 0; a < after; a++) {
        active += length[a] > 0;
        length[a] = length[a] > 0 ? 1 / sqrt(length[a]) : 0;
    }
    for (size_t u = 0; u < units; u++) {
        double sum[LANES] = {0};
        const float *run = x + u * after;
        size_t a = 0;
        for (; a + LANES <= after; a += LANES)
            for (int lane = 0; lane < LANES; lane++)
                sum[lane] += run[a + lane] * length[a + lane];
        for (int lane = 0; a < after; a++, lane++)
            sum[lane] += run[a] * length[a];
        total[u] += add_lanes(sum);
    }
    return active;
}

/* The same of one row, whose units are neighbours. */
WIDE static int64_t add_direction(const float *x, size_t units, double *total)
{
    double squares[LANES] = {0};
    size_t u = 0;

    for (; u + LANES <= units; u += LANES)
        for (int lane = 0; lane < LANES; lane++) {
            double v = x[u + lane];
            squares[lane] += v * v;
        }
    for (int lane = 0; u < units; u++, lane++) {
        double v = x[u];
        squares[lane] += v * v;
    }
    double length = add_lanes(squares);
    if (!(length > 0))
        return 0;
    length = 1 / sqrt(length);
    for (u = 0; u < units; u++)
        total[u] += x[u] * length;
    return 1;
}

static PyObject *directions(PyObject *module, PyObject *args)
{
    Py_buffer block;
    Py_ssize_t outer, units, after;
    PyObject *found = NULL;

    (void)module;
    if (!PyArg_ParseTuple(args, "y*nnn:directions", &block, &outer, &units, &after))
        return NULL;
    int usable = outer > 0 && units > 0 && after > 0 && units <= PY_SSIZE_T_MAX / 8 / after &&
                 outer <= PY_SSIZE_T_MAX / 8 / (units * after) &&
                 fits(&block, 4, (size_t)(outer * units * after));
    double *total = usable ? calloc((size_t)(units + after), sizeof *total) : NULL;
    if (!usable) {
        refuse();
    } else if (total == NULL) {
        PyErr_NoMemory();
    } else {
        const float *x = block.buf;
        int64_t active = 0;
        double squares = 0;
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t o = 0; o < outer; o++, x += units * after)
            active += after == 1 ? add_direction(x, (size_t)units, total)
                                 : add_directions(x, (size_t)units, (size_t)after, total + units,
                                                  total);
        for (Py_ssize_t u = 0; u < units; u++)
            squares += total[u] * total[u];
        Py_END_ALLOW_THREADS
        found = Py_BuildValue("dL", squares, (long long)active);
    }
    free(total);
    PyBuffer_Release(&block);
    return found;
}

/* See dead_chance in activations.py, whose loop this is. */
static PyObject *silent(PyObject *module, PyObject *args)
{
    double slope, rows, step, total = 0;

    (void)module;
    if (!PyArg_ParseTuple(args, "ddd:silent", &slope, &rows, &step))
        return NULL;
    for (int k = -400; k <= 400; k++) {
        double t = k * step, below = 0.5 * erfc(t * slope / sqrt(2.0));
        if (below <= 0)
            break;
        double term = exp(-0.5 * t * t + rows * log(below));
        total += term;
        if (k > 0 && term < 1e-20 * total)
            break;
    }
    return PyFloat_FromDouble(total);
}

#define BINS_MOST 64

/* Neighbours are counted apart: many are equal, and each would wait for the one before. */
static PyObject *histogram(PyObject *module, PyObject *args)
{
    Py_buffer values, counts;
    Py_ssize_t step;
    double low, scale;
    PyObject *found = NULL;

    (void)module;
    if (!PyArg_ParseTuple(args, "y*nddw*:histogram", &values, &step, &low, &scale, &counts))
        return NULL;
    size_t bins = (size_t)counts.len / 8, n = (size_t)values.len / 4;
    if (step < 1 || bins < 1 || bins > BINS_MOST || !fits(&values, 4, n) || !fits(&counts, 8, bins)) {
        refuse();
    } else {
        const float *x = values.buf;
        int64_t *count = counts.buf, parts[4][BINS_MOST] = {{0}};
        int part = 0;
        Py_BEGIN_ALLOW_THREADS
        for (size_t i = 0; i < n; i += (size_t)step, part = (part + 1) % 4) {
            double place = (x[i] - low) * scale;
            parts[part][place >= (double)bins ? bins - 1 : place > 0 ? (size_t)place : 0]++;
        }
        for (size_t bin = 0; bin < bins; bin++)
            count[bin] = parts[0][bin] + parts[1][bin] + parts[2][bin] + parts[3][bin];
        Py_END_ALLOW_THREADS
        found = Py_NewRef(Py_None);
    }
    PyBuffer_Release(&values);
    PyBuffer_Release(&counts);
    return found;
}

static PyMethodDef methods[] = {
    {"summary", summary, METH_VARARGS,
     "summary(block, outer, units, after, low, high): sum, sum of squares, zeros."},
    {"deviation", deviation, METH_VARARGS, "deviation(block, centre): sum of squares about it."},
    {"contrast", contrast, METH_VARARGS,
     "contrast(block, rows, columns): square of the summed unit rows, their number, variance."},
    {"directions", directions, METH_VARARGS,
     "directions(block, outer, units, after): square of the summed unit rows, their number."},
    {"histogram", histogram, METH_VARARGS,
     "histogram(values, step, low, scale, counts): how many of every step-th fall into each bin."},
    {"silent", silent, METH_VARARGS, "silent(slope, rows, step): sum of the integrand."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_outputs", "Statistics of layers' outputs.", -1, methods,
    NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__outputs(void)
{
    return PyModule_Create(&definition);
}
