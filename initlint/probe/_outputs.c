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

#define LANES 8

struct sums {
    double sum[LANES], squares[LANES];
    int64_t zeros;
};

static double add_lanes(const double lanes[LANES])
{
    double sum = 0;
    for (int lane = 0; lane < LANES; lane++)
        sum += lanes[lane];
    return sum;
}

/* One unit's run of positions. */
static void add_run(struct sums *t, const float *x, size_t n, float *low, float *high)
{
    float least[LANES], most[LANES];
    int32_t zeros[LANES] = {0};
    size_t i = 0;

    for (int lane = 0; lane < LANES; lane++) {
        least[lane] = *low;
        most[lane] = *high;
    }
    for (; i + LANES <= n; i += LANES)
        for (int lane = 0; lane < LANES; lane++) {
            float v = x[i + lane];
            double wide = v;
            t->sum[lane] += wide;
            t->squares[lane] += wide * wide;
            zeros[lane] += v == 0.0f;
            least[lane] = v < least[lane] ? v : least[lane];
            most[lane] = v > most[lane] ? v : most[lane];
        }
    for (int lane = 0; i < n; i++, lane++) {
        float v = x[i];
        double wide = v;
        t->sum[lane] += wide;
        t->squares[lane] += wide * wide;
        zeros[lane] += v == 0.0f;
        least[lane] = v < least[lane] ? v : least[lane];
        most[lane] = v > most[lane] ? v : most[lane];
    }
    for (int lane = 0; lane < LANES; lane++) {
        t->zeros += zeros[lane];
        *low = least[lane] < *low ? least[lane] : *low;
        *high = most[lane] > *high ? most[lane] : *high;
    }
}

/* The same where there are fewer positions than lanes. */
static void add_short_run(struct sums *t, const float *x, size_t n, float *low, float *high)
{
    for (size_t i = 0; i < n; i++) {
        float v = x[i];
        double wide = v;
        t->sum[i] += wide;
        t->squares[i] += wide * wide;
        t->zeros += v == 0.0f;
        *low = v < *low ? v : *low;
        *high = v > *high ? v : *high;
    }
}

/* All units at one position. */
static void add_units(struct sums *t, const float *x, size_t n, float *low, float *high)
{
    int32_t zeros = 0;
    size_t i = 0;

    for (; i + LANES <= n; i += LANES)
        for (int lane = 0; lane < LANES; lane++) {
            double wide = x[i + lane];
            t->sum[lane] += wide;
            t->squares[lane] += wide * wide;
        }
    for (int lane = 0; i < n; i++, lane++) {
        double wide = x[i];
        t->sum[lane] += wide;
        t->squares[lane] += wide * wide;
    }
    for (i = 0; i < n; i++) {
        zeros += x[i] == 0.0f;
        low[i] = x[i] < low[i] ? x[i] : low[i];
        high[i] = x[i] > high[i] ? x[i] : high[i];
    }
    t->zeros += zeros;
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
    struct sums t = {{0}, {0}, 0};
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
        const float *x = block.buf;
        float *least = low.buf, *most = high.buf;
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t u = 0; u < units; u++)
            least[u] = most[u] = x[u * after];
        for (Py_ssize_t o = 0; o < outer; o++, x += units * after) {
            if (after == 1) {
                add_units(&t, x, (size_t)units, least, most);
                continue;
            }
            for (Py_ssize_t u = 0; u < units; u++)
                (after < LANES ? add_short_run : add_run)(&t, x + u * after, (size_t)after,
                                                          least + u, most + u);
        }
        Py_END_ALLOW_THREADS
        found = Py_BuildValue("ddL", add_lanes(t.sum), add_lanes(t.squares), (long long)t.zeros);
    }
    PyBuffer_Release(&block);
    PyBuffer_Release(&low);
    PyBuffer_Release(&high);
    return found;
}

static PyObject *deviation(PyObject *module, PyObject *args)
{
    Py_buffer block;
    double centre, squares[LANES] = {0};
    PyObject *found = NULL;

    (void)module;
    if (!PyArg_ParseTuple(args, "y*d:deviation", &block, &centre))
        return NULL;
    if (!fits(&block, 4, (size_t)block.len / 4)) {
        refuse();
    } else {
        const float *x = block.buf;
        size_t n = (size_t)block.len / 4, i = 0;
        Py_BEGIN_ALLOW_THREADS
        for (; i + LANES <= n; i += LANES)
            for (int lane = 0; lane < LANES; lane++) {
                double d = x[i + lane] - centre;
                squares[lane] += d * d;
            }
        for (int lane = 0; i < n; i++, lane++) {
            double d = x[i] - centre;
            squares[lane] += d * d;
        }
        Py_END_ALLOW_THREADS
        found = PyFloat_FromDouble(add_lanes(squares));
    }
    PyBuffer_Release(&block);
    return found;
}

struct contrast {
    double pairs, variance;
    int64_t moving;
};

/* Rows are samples; work holds three times columns doubles, the first two thirds zero. */
static void compare(const float *x, size_t rows, size_t width, const int64_t *chosen,
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
static int64_t add_directions(const float *x, size_t units, size_t after, double *length,
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
static int64_t add_direction(const float *x, size_t units, double *total)
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

static PyMethodDef methods[] = {
    {"summary", summary, METH_VARARGS,
     "summary(block, outer, units, after, low, high): sum, sum of squares, zeros."},
    {"deviation", deviation, METH_VARARGS, "deviation(block, centre): sum of squares about it."},
    {"contrast", contrast, METH_VARARGS,
     "contrast(block, rows, columns): square of the summed unit rows, their number, variance."},
    {"directions", directions, METH_VARARGS,
     "directions(block, outer, units, after): square of the summed unit rows, their number."},
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
