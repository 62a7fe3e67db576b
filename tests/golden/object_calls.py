"""Calls of the object, run under TensorFlow 2.0.0 and here: what to run, and how.

A call is a line of Python in a vocabulary that both sides have (`Adagrad`, `V` for a
variable, `A` for an array, `S` for a sum, `take`, `rows`, `schedules`), with `w`, `u` and
`opt` made anew for each. What happened is the value of its last expression, in JSON, or
the type of the error. This file runs on Python 3.7 too, and imports neither side.
"""

import ast
import copy
import math
import pickle

import numpy as np

BEGIN = "w = V([1.0, 2.0], 'w'); u = V([3.0], 'u'); opt = Adagrad(0.5)"

# What is tried as whatever number.
ODD = (
    "0 0.3 1 True -0.1 -0.0 1e30 1e-30 nan inf None 'a' '0.3' [0.3] (0.3,) {} 1j "
    "np.float32(0.3) np.float64(0.3) np.float16(0.3) np.int64(1) np.array(0.3) "
    "np.array([0.3]) np.array([0.3,0.4]) A(0.3) A(1,'int32') A([0.3,0.4]) V(0.3,'x') "
    "lambda:0.3 lambda:A(0.3) lambda:None lambda:'a' lambda:-0.1 lambda:nan"
).split()
ARGUMENTS = (
    "learning_rate initial_accumulator_value epsilon clipnorm clipvalue decay lr"
)


def _of_each_argument():
    for name in ARGUMENTS.split():
        for value in ODD:
            if (name, value) in (("lr", "nan"), ("lr", "inf")):
                continue
            yield f"trained(Adagrad({name}={value}))"
        for value in "0 0.3 1 -0.1 None 'a' np.float64(0.3) A(0.3)".split():
            yield f"Adagrad({name}={value}).get_config()"
    # The same set later: before and after the first step.
    for name in ARGUMENTS.split():
        for (
            value
        ) in "0.1 0 2 -0.1 nan None 'a' np.float64(0.3) A(0.3) lambda:0.3".split():
            yield f"opt.{name} = {value}; trained(opt)"
        for value in "0.1 0".split():
            yield f"trained(opt); opt.{name} = {value}; trained(opt)"
        yield f"opt.{name} = 0.25; opt.get_config()"
        yield f"trained(opt); opt.{name} = 0.25; opt.get_config()"
        yield f"opt.{name} = 0.25; float(opt.{name})"
        yield f"float(opt.{name})"
        yield f"hasattr(opt, '{name}')"
        yield f"o = Adagrad(0.5, {name}=0.3); o.{name} = 0.1; trained(o)"
    for name in "iterations weights name variables minimize clip_norm momentum".split():
        yield f"opt.{name} = 3; getattr(opt, '{name}')"
        yield f"getattr(opt, '{name}', 'nothing')"


def _of_initializers():
    names = "zeros ones Zeros Ones constant Constant random_normal RandomNormal normal "
    names += "random_uniform uniform truncated_normal glorot_uniform GlorotUniform "
    names += "glorot_normal he_normal he_uniform lecun_normal lecun_uniform orthogonal "
    names += "identity Identity variance_scaling VarianceScaling foo"
    for name in names.split():
        yield f"x = opt.add_slot(w, 'foo', '{name}'); [x.name, x.shape, x.dtype]"
        made = f"opt.add_weight('x', (3, 3), initializer='{name}')"
        yield f"x = {made}; np.std(x.numpy()) > 0"
    for (
        value
    ) in "None 3.0 [5.0,6.0] np.array([5.0,6.0]) A([5.0,6.0]) w {} 7 [1.0]".split():
        yield f"x = opt.add_slot(w, 'foo', {value}); x"
        yield f"opt.add_slot(w, 'accumulator', {value}); trained(opt)"
        yield f"opt.add_weight('x', (2,), initializer={value})"
    for name in "zeros ones Ones".split():
        yield f"opt.add_slot(w, 'accumulator', '{name}'); step(opt); acc(opt)"
    yield "opt.add_slot(w, 'foo', lambda shape, dtype: full(shape, 4, dtype))"
    yield "opt.add_slot(w, 'foo', initializer=lambda shape, dtype=None: full(shape, 4, dtype))"
    yield "opt.add_weight('x', (2,), initializer=lambda shape, dtype: full(shape, 4, dtype))"


OTHERS = """
Adagrad()
Adagrad().get_config()
Adagrad(0.5, 0.2, 0.01, 'mine').get_config()
Adagrad(0.5, 0.2, 0.01, 'mine', 1)
Adagrad(0.5, lr=0.25).get_config()
Adagrad(0.5, clipvalue=2.0, clipnorm=1).get_config()
Adagrad(foo=1)
Adagrad(clipnorm=-1, foo=1)
[Adagrad(name=None).get_config()['name'] for _ in range(3)]
[Adagrad(name='').get_config()['name'] for _ in range(2)]
Adagrad(name='mine').get_config()['name']
o = Adagrad(0.5, name='mine'); step(o); names(o)
o = Adagrad(0.5, name='a/b'); step(o); names(o)
o = Adagrad(0.5, name='a b'); step(o); names(o)
opt._name
opt.get_config()
step(opt); opt.get_config()
trained(Adagrad(0.5, decay=0.1), 3)
trained(Adagrad(0.5, clipnorm=0.1), 3)
trained(Adagrad(0.5, clipvalue=0.1), 3)
trained(Adagrad(0.5, clipnorm=0.1, clipvalue=0.05), 3)
trained(Adagrad(0.5, epsilon=1.0), 3)
trained(Adagrad(schedules.ExponentialDecay(0.5, 1, 0.5)), 3)
trained(Adagrad(schedules.PiecewiseConstantDecay([1], [0.5, 0.25])), 3)
Adagrad(schedules.ExponentialDecay(0.5, 1, 0.5)).get_config()
Adagrad(schedules.ExponentialDecay(0.5, 1, 0.5)).learning_rate
o = Adagrad(schedules.ExponentialDecay(0.5, 1, 0.5)); o.lr = 0.25; trained(o)
opt.lr = schedules.ExponentialDecay(0.5, 1, 0.5); trained(opt, 3)
step(opt); opt.lr = schedules.ExponentialDecay(0.5, 1, 0.5); trained(opt, 3)
opt.learning_rate = lambda: 0.25; trained(opt); opt.learning_rate = 0.5; trained(opt)
r = V(0.5, 'r'); o = Adagrad(r); r.assign(0.25); trained(o)
r = V(0.5, 'r'); o = Adagrad(r); trained(o); o.lr = 0.1; r
r = V(0.5, 'r'); Adagrad(r).get_config()
opt.learning_rate
opt.lr
opt.decay
step(opt); opt.learning_rate
step(opt); opt.lr
step(opt); opt.decay
step(opt); opt.decay.name
opt.lr; step(opt); [opt.lr, opt.decay, opt.iterations]
opt.iterations
step(opt); opt.iterations
opt.iterations; step(opt); names(opt)
opt.lr.assign(0.25); trained(opt)
opt.lr.assign_sub(0.25); trained(opt)
opt.lr = opt.lr * 0.5; trained(opt)
opt.lr *= 0.5; trained(opt)
step(opt); opt.lr *= 0.5; trained(opt)
step(opt); opt.lr = 0.1; opt.lr.numpy()
float(opt.lr)
float(opt.decay)
int(opt.iterations)
opt.lr.numpy()
opt.learning_rate + 1.0
'%.3f' % opt.lr
opt.lr == 0.5
bool(opt.lr > 0.4)
opt._get_hyper('learning_rate')
opt._get_hyper('learning_rate', 'float64').dtype
opt._get_hyper('decay')
opt._get_hyper('foo')
opt._set_hyper('learning_rate', 0.25); trained(opt)
opt._set_hyper('decay', 0.25); opt._get_hyper('decay')
opt._set_hyper('foo', 0.25); opt._get_hyper('foo')
opt._decayed_lr('float32')
o = Adagrad(0.5, decay=1.0); step(o); o._decayed_lr('float32')
o = Adagrad(schedules.ExponentialDecay(0.5, 1, 0.5)); step(o); o._decayed_lr('float32')
opt._initial_decay
opt._initial_accumulator_value
opt._initial_accumulator_value = 1.0; trained(opt)
step(opt); opt._initial_accumulator_value = 1.0; step(opt, u); opt.get_slot(u, 'accumulator')
opt._hypers_created
step(opt); opt._iterations
len(opt._weights)
opt._slots
opt._create_hypers(); opt.lr
opt._create_slots([w]); names(opt)
opt._serialize_hyperparameter('learning_rate')
opt._compute_gradients(lambda: S(w * w), [w])
opt.built
opt.foo
opt.get_slots
opt.state_dict
opt.zero_grad()
del opt.lr; opt.lr
o = Adagrad(0.5, clipnorm=0.1); del o.clipnorm; trained(o)
del opt.epsilon; trained(opt)
opt.epsilon
Adagrad(epsilon=None).epsilon
Adagrad(epsilon=0).epsilon
opt.epsilon = 0; opt.epsilon
opt.epsilon = None; trained(opt)
opt.iterations.assign(10); step(opt)
opt.iterations = V(5, 'mine', 'int64'); step(opt); names(opt)
opt.iterations = V(5, 'mine', 'int64'); opt.iterations = V(6, 'mine', 'int64')
step(opt); opt.iterations = V(5, 'mine', 'int64')
opt.iterations = 5; step(opt)
opt.iterations = 5.0; opt.iterations
names(opt)
opt.weights
opt.variables()
opt.get_weights()
opt.weights is opt.weights
opt.weights == opt.variables()
step(opt); names(opt)
step(opt); step(opt, u); names(opt)
step(opt, u); step(opt); names(opt)
step(opt); opt.get_weights()
step(opt); opt.get_weights()[0].dtype.kind
opt.apply_gradients([(A([1.0]), u), (A([0.5, -2.0]), w)]); names(opt)
x = opt.add_weight('x', (2,)); names(opt)
x = opt.add_weight('x', (2,)); x
x = opt.add_weight('x', ()); x
x = opt.add_weight('x', []); x
x = opt.add_weight('x'); x
x = opt.add_weight('x', 2); x.shape
x = opt.add_weight('x', (2,), 'float64'); x.numpy().dtype
x = opt.add_weight('x', (2,), 'float16', 'ones'); x
x = opt.add_weight('x', (2,), 'int32', 'ones'); x
x = opt.add_weight('x', (2,), 'int32', 'zeros'); x
x = opt.add_weight('x', (2,), 'foo')
opt.add_weight('x', (2,)).trainable
opt.add_weight('x', (2,), trainable=True).trainable
opt.add_weight('x', (2,), trainable=False).trainable
opt.add_weight(None, (2,))
opt.add_weight('x', (-1,))
opt.add_weight('x', (2,)); opt.add_weight('x', (2,)).name
opt.add_weight('x', (2,)); step(opt); opt.set_weights([np.array(3), np.array([5.0, 6.0])]); acc(opt)
opt.add_slot(w, 'foo')
opt.add_slot(w, 'foo'); names(opt)
opt.add_slot(w, 'foo').trainable
opt.add_slot(w, 'foo') is opt.add_slot(w, 'foo', 'ones')
opt.add_slot(w, 'foo', 'ones'); opt.add_slot(w, 'foo', 'zeros')
opt.add_slot(w, 'foo'); step(opt); names(opt)
step(opt); opt.add_slot(w, 'foo'); names(opt)
step(opt); opt.add_slot(w, 'foo').name
step(opt); opt.add_slot(w, 'foo'); opt.get_weights()
step(opt); opt.add_slot(u, 'foo'); step(opt, u); names(opt)
opt.add_slot(w, 'accumulator', 'ones'); step(opt); names(opt)
opt.add_slot(w, 'accumulator', 'ones'); opt.add_slot(w, 'accumulator')
opt.add_slot(w, 'accumulator', 'ones'); opt.add_slot(u, 'foo'); step(opt); step(opt, u); names(opt)
opt.add_slot(w, 'accumulator', 'ones'); step(opt, u); opt.get_slot(u, 'accumulator')
opt.add_slot(w, 'accumulator'); step(opt); acc(opt)
step(opt); opt.add_slot(w, 'accumulator', 'ones'); acc(opt)
opt.add_slot(w, 'a/b').name
opt.add_slot(w, 'a b').name
opt.add_slot(w, ''); opt.get_slot_names()
opt.add_slot(w, None); opt.get_slot_names()
opt.add_slot(w, 3); opt.get_slot_names()
opt.add_slot(A([1.0, 2.0]), 'foo')
opt.add_slot([w], 'foo')
opt.add_slot('w', 'foo')
opt.add_slot(None, 'foo')
opt.add_slot(V([1.0], 'h', 'float16'), 'foo', 'ones')
opt.add_slot(V([1.0], 'd', 'float64'), 'foo', 'ones').numpy().dtype
opt.add_slot(V([1], 'i', 'int32'), 'foo', 'ones')
opt.get_slot_names()
step(opt); opt.get_slot_names()
step(opt); opt.add_slot(u, 'z'); opt.add_slot(w, 'a'); opt.get_slot_names()
opt.add_slot(w, 'z'); opt.add_slot(w, 'a'); step(opt); opt.get_slot_names()
opt.get_slot(w, 'accumulator')
step(opt); opt.get_slot(w, 'accumulator')
step(opt); opt.get_slot(w, 'foo')
step(opt); opt.get_slot(u, 'accumulator')
step(opt); opt.get_slot(u, 'foo')
step(opt); opt.get_slot('w', 'accumulator')
step(opt); opt.get_slot(None, 'accumulator')
step(opt); opt.get_slot(w, None)
step(opt); opt.get_slot(w, 'accumulator').assign([5.0, 6.0]); step(opt); acc(opt)
step(opt); opt.get_slot(w, 'accumulator') is opt.weights[1]
opt.apply_gradients([])
opt.apply_gradients(())
opt.apply_gradients(None)
opt.apply_gradients(3)
opt.apply_gradients('ab')
opt.apply_gradients([1])
opt.apply_gradients([None])
opt.apply_gradients([(1,)])
opt.apply_gradients([(1, 2, 3)])
opt.apply_gradients([(None, w)])
opt.apply_gradients([(None, w), (None, u)])
opt.apply_gradients([(A([1.0, 1.0]), w), (None, u)]); [w, names(opt)]
opt.apply_gradients([(w, A([1.0, 1.0]))])
opt.apply_gradients([(A([1.0, 1.0]), A([1.0, 1.0]))])
opt.apply_gradients([(A([1.0, 1.0]), None)])
opt.apply_gradients([(A([1.0, 1.0]), 'w')])
opt.apply_gradients((A([1.0, 1.0]), w))
opt.apply_gradients([[A([1.0, 1.0]), w]]); w
opt.apply_gradients(zip([A([1.0, 1.0])], [w])); w
opt.apply_gradients(((g, v) for g, v in [(A([1.0, 1.0]), w)])); w
opt.apply_gradients({'a': (A([1.0, 1.0]), w)}.values()); w
opt.apply_gradients([(A([1.0, 1.0]), w)], name='x')
opt.apply_gradients([(A([1.0, 1.0]), w)], 'x'); names(opt)
opt.apply_gradients([(A([1.0, 1.0]), w)], name=3)
opt.apply_gradients(grads_and_vars=[(A([1.0, 1.0]), w)])
opt.apply_gradients()
opt.apply_gradients([(A([1.0, 1.0]), w), (A([1.0, 1.0]), w)]); [w, acc(opt)]
opt.apply_gradients([(A([1.0, 1.0, 1.0]), w)])
opt.apply_gradients([(A([1.0]), w)])
opt.apply_gradients([(A(1.0), w)])
opt.apply_gradients([(A([[1.0, 1.0]]), w)])
opt.apply_gradients([(A([1.0, 1.0], 'float64'), w)])
opt.apply_gradients([(A([1, 1], 'int32'), w)])
opt.apply_gradients([(A([1.0, 1.0], 'float16'), w)])
opt.apply_gradients([([1.0, 1.0], w)]); w
opt.apply_gradients([([1, 1], w)]); w
opt.apply_gradients([((1.0, 1.0), w)]); w
opt.apply_gradients([(np.ones(2, 'float32'), w)]); w
opt.apply_gradients([(np.ones(2), w)])
opt.apply_gradients([(np.ones(2, 'int32'), w)])
opt.apply_gradients([(1.0, V(2.0, 's'))])
opt.apply_gradients([('a', w)])
opt.apply_gradients([(w, w)]); w
opt.apply_gradients([(A([nan, 1.0]), w)]); w
opt.apply_gradients([(A([1e25, 1.0]), w)]); [w, acc(opt)]
opt.apply_gradients([(A([0.0, 1.0]), w)]); [w, acc(opt)]
o = Adagrad(0.5, 0.0); o.apply_gradients([(A([0.0, 1.0]), w)]); w
o = Adagrad(0.5, 0.0); o.apply_gradients([(A([1e-8, 1.0]), w)]); w
o = Adagrad(0.5, clipnorm=0.1); step(o); [w, acc(o)]
opt.apply_gradients([(A([1]), V([1], 'i', 'int32'))])
opt.apply_gradients([(A([1], 'int32'), V([1], 'i', 'int32'))])
h = V([2.0], 'h', 'float16'); o = Adagrad(0.5, 0.0); o.apply_gradients([(A([1e-4], 'float16'), h)]); h
h = V([2.0], 'h', 'float16'); o = Adagrad(0.5); o.apply_gradients([(A([2.242], 'float16'), h)]); [h, o.get_slot(h, 'accumulator')]
h = V([2.0, 3.0], 'h', 'float16'); o = Adagrad(0.5); o.minimize(lambda: S(h * h), [h]); o.minimize(lambda: S(h * h), [h]); [h, o.get_slot(h, 'accumulator')]
h = V([2.0, 300.0], 'h', 'float16'); o = Adagrad(0.5, decay=0.1); o.minimize(lambda: S(h), [h]); o.minimize(lambda: S(h), [h]); [h, o.get_slot(h, 'accumulator')]
h = V([2.0, 3.0], 'h', 'float16'); o = Adagrad(0.5, clipnorm=0.1); o.minimize(lambda: S(h * h), [h]); [h, o.get_slot(h, 'accumulator')]
h = V([2.0, 3.0], 'h', 'float16'); o = Adagrad(0.5, clipvalue=0.1); o.minimize(lambda: S(h * h), [h]); [h, o.get_slot(h, 'accumulator')]
h = V([2.0, 3.0], 'h', 'float16'); o = Adagrad(0.5, epsilon=1e-3); o.minimize(lambda: S(h * h), [h]); h
d = V([2.0, 3.0], 'd', 'float64'); opt.minimize(lambda: S(d * d), [d]); d
opt.apply_gradients([(rows([0], [[1.0, 2.0]], (3, 2)), V(np.ones((3, 2)), 't', 'float32'))])
t = V(np.ones((3, 2)), 't', 'float32'); opt.apply_gradients([(rows([0, 2, 0], [[1.0, 2.0], [1.0, 1.0], [3.0, 4.0]], (3, 2)), t)]); [t, opt.get_slot(t, 'accumulator')]
t = V(np.ones((3, 2)), 't', 'float32'); opt.apply_gradients([(rows([5], [[1.0, 2.0]], (3, 2)), t)]); t
t = V(np.ones((3, 2)), 't', 'float32'); opt.minimize(lambda: S(take(t, [0, 2, 0])), [t]); [t, opt.get_slot(t, 'accumulator')]
t = V(np.ones((3, 2)), 't', 'float32'); o = Adagrad(0.5, clipnorm=0.1); o.minimize(lambda: S(take(t, [0, 2, 0])), [t]); [t, o.get_slot(t, 'accumulator')]
t = V(np.ones((3, 2)), 't', 'float32'); o = Adagrad(0.5, clipvalue=0.1); o.minimize(lambda: S(take(t, [0, 2, 0])), [t]); [t, o.get_slot(t, 'accumulator')]
t = V(np.ones((3, 2)), 't', 'float32'); o = Adagrad(0.5, clipvalue=0.1); o.minimize(lambda: S(take(t, [0, 2])), [t]); [t, o.get_slot(t, 'accumulator')]
opt.minimize(lambda: S(w * w), [w]); w
opt.minimize(lambda: S(w * w), (w,)); w
opt.minimize(lambda: S(w * w), w); w
opt.minimize(lambda: S(w * w), [w, w]); w
opt.minimize(lambda: S(w * w), []); w
opt.minimize(lambda: S(w * w), {}); w
opt.minimize(lambda: S(w * w), None)
opt.minimize(lambda: S(w * w), 'w')
opt.minimize(lambda: S(w * w), 3)
opt.minimize(lambda: S(w * w), [None])
opt.minimize(lambda: S(w * w), [w, None])
opt.minimize(lambda: S(w * w), [A([1.0, 2.0])])
opt.minimize(lambda: S(w * w), [[w]]); w
opt.minimize(lambda: S(w * w) + S(u), [w, [u]]); [w, u, names(opt)]
opt.minimize(lambda: S(w * w) + S(u), {'b': w, 'a': u}); [w, u, names(opt)]
opt.minimize(lambda: S(w * w) + S(u), {'b': [w], 'a': {'c': (u,)}}); [w, u, names(opt)]
opt.minimize(lambda: S(w * w) + S(u), lambda: [w, [u]]); [w, u, names(opt)]
opt.minimize(lambda: S(w * w) + S(u), lambda: {'b': w, 'a': u}); [w, u, names(opt)]
opt.minimize(lambda: S(w * w), lambda: w); w
opt.minimize(lambda: S(w * w), lambda: []); w
opt.minimize(lambda: S(w * w), lambda: None)
opt.minimize(lambda: S(w * w), (v for v in [w]))
opt.minimize(lambda: S(w * w), {w: 1}.keys())
opt.minimize(lambda: S(w * w), [w, u]); [w, u, names(opt)]
opt.minimize(lambda: S(w * w), [u])
opt.minimize(lambda: w * w, [w]); w
opt.minimize(lambda: w, [w]); w
opt.minimize(lambda: {'a': S(w * w), 'b': S(w)}, [w]); w
opt.minimize(lambda: [S(w * w), S(w)], [w]); w
opt.minimize(lambda: (S(w * w), w), [w]); w
opt.minimize(lambda: {'a': {'b': S(w * w)}, 'c': [S(u), w]}, [w, u]); [w, u]
opt.minimize(lambda: [], [w])
opt.minimize(lambda: {}, [w])
opt.minimize(lambda: None, [w])
opt.minimize(lambda: 'a', [w])
opt.minimize(lambda: 1.0, [w])
opt.minimize(lambda: A(1.0), [w])
opt.minimize(lambda: [S(w * w), None], [w])
opt.minimize(lambda: [S(w * w), 1.0], [w])
opt.minimize(lambda x: S(w * w), [w])
opt.minimize(S(w * w), [w])
opt.minimize(None, [w])
opt.minimize(1.0, [w])
opt.minimize(lambda: S(w * w))
opt.minimize(loss=lambda: S(w * w), var_list=[w], grad_loss=None, name='x'); w
opt.minimize(lambda: S(w * w), [w], name=3)
opt.minimize(lambda: S(w * w), [w], A(2.0)); acc(opt)
opt.minimize(lambda: S(w * w), [w], 2.0); acc(opt)
opt.minimize(lambda: S(w * w), [w], 2); acc(opt)
opt.minimize(lambda: S(w * w), [w], [2.0]); acc(opt)
opt.minimize(lambda: S(w * w), [w], [1.0, 2.0, 3.0])
opt.minimize(lambda: S(w * w), [w], A([1.0, 2.0, 3.0]))
opt.minimize(lambda: S(w * w), [w], np.array([1.0, 2.0, 3.0], 'float32'))
opt.minimize(lambda: S(w * w), [w], A([2.0])); acc(opt)
opt.minimize(lambda: S(w * w), [w], A(2.0, 'float64')); acc(opt)
opt.minimize(lambda: S(w * w), [w], A(2.0, 'float16')); acc(opt)
opt.minimize(lambda: S(w * w), [w], A(2, 'int32')); acc(opt)
opt.minimize(lambda: S(w * w), [w], np.float64(2.0)); acc(opt)
opt.minimize(lambda: S(w * w), [w], np.float32(2.0)); acc(opt)
opt.minimize(lambda: S(w * w), [w], 'a')
opt.minimize(lambda: S(w * w), [w], {})
opt.minimize(lambda: S(w * w), [w], 0.0); acc(opt)
opt.minimize(lambda: S(w * w), [w], nan); acc(opt)
opt.minimize(lambda: S(w * w), [w], u); acc(opt)
opt.minimize(lambda: w * w, [w], A([2.0, 3.0])); acc(opt)
opt.minimize(lambda: w * w, [w], np.array([2.0, 3.0], 'float32')); acc(opt)
opt.minimize(lambda: w * w, [w], [2.0, 3.0]); acc(opt)
opt.minimize(lambda: w * w, [w], A(2.0)); acc(opt)
opt.minimize(lambda: w * w, [w], A([2.0])); acc(opt)
opt.minimize(lambda: w * w, [w], A([[2.0, 3.0]])); acc(opt)
opt.minimize(lambda: w * w, [w], A([2.0, 3.0, 4.0]))
opt.minimize(lambda: w * w, [w], A([2.0, 3.0], 'float64'))
opt.minimize(lambda: [S(w * w), S(w)], [w], [A(2.0), A(3.0)]); acc(opt)
opt.minimize(lambda: [S(w * w), S(w)], [w], [2.0, 3.0]); acc(opt)
opt.minimize(lambda: [S(w * w), S(w)], [w], [A(2.0), None]); acc(opt)
opt.minimize(lambda: [S(w * w), S(w)], [w], [A(2.0)]); acc(opt)
opt.minimize(lambda: [S(w * w), S(w)], [w], A(2.0)); acc(opt)
opt.minimize(lambda: {'a': S(w * w), 'b': S(w)}, [w], {'a': A(2.0), 'b': A(3.0)}); acc(opt)
opt.minimize(lambda: {'a': S(w * w), 'b': S(w)}, [w], {'b': A(2.0), 'c': A(3.0)}); acc(opt)
d = V([1.0], 'd', 'float64'); opt.minimize(lambda: S(d * d), [d], 2.0); opt.get_slot(d, 'accumulator')
d = V([1.0], 'd', 'float64'); opt.minimize(lambda: S(d * d), [d], A(2.0, 'float64')); opt.get_slot(d, 'accumulator')
opt.minimize(lambda: S(w * w), [w], A(2.0)); opt.minimize(lambda: S(w * w), [w]); acc(opt)
opt.minimize(lambda: S(V([1], 'i', 'int32') * 2), [w])
opt.minimize(lambda: w.assign([1.0, 1.0]), [w])
opt.minimize(lambda: S(w * nan), [w]); w
o = Adagrad(0.5, clipnorm=1.0); o.minimize(lambda: S(w * 1e25), [w]); w
o = Adagrad(0.5, clipnorm=0.0); o.minimize(lambda: S(w * 0.0), [w]); w
o = Adagrad(0.5, clipnorm=0.0); o.minimize(lambda: S(w * 1.0), [w]); w
o = Adagrad(0.5, clipnorm=1.0); o.minimize(lambda: S(w * nan), [w]); w
o = Adagrad(0.5, clipnorm=inf); o.minimize(lambda: S(w * 1.0), [w]); w
o = Adagrad(0.5, clipnorm=1.0); o.minimize(lambda: S(w * w), [w, u]); w
o = Adagrad(0.5, clipvalue=0.0); o.minimize(lambda: S(w * 1.0), [w]); w
o = Adagrad(0.5, clipvalue=1.0); o.minimize(lambda: S(w * nan), [w]); w
o = Adagrad(0.5, clipvalue=1.0); o.minimize(lambda: S(w * w), [w, u]); w
gradients(opt, lambda: S(w * w), [w])
gradients(opt, lambda: S(w * w), w)
gradients(opt, lambda: S(w * w), (w, w))
gradients(opt, lambda: S(w * w) + S(u), [w, u])
gradients(opt, lambda: S(w * w) + S(u), [w, [u]])
gradients(opt, lambda: S(w * w) + S(u), {'b': w, 'a': u})
gradients(opt, lambda: S(w * w), [u])
gradients(opt, lambda: S(w * w), [w, u])
gradients(opt, lambda: S(w * w), [])
gradients(opt, lambda: S(w * w), None)
gradients(opt, lambda: S(w * w), [None])
gradients(opt, lambda: w * w, [w])
gradients(opt, lambda: [S(w * w), S(w)], [w])
gradients(opt, lambda: A(1.0), [w])
gradients(opt, lambda: None, [w])
gradients(Adagrad(clipnorm=0.1), lambda: S(w * w), [w])
gradients(Adagrad(clipvalue=3), lambda: S(w * w), [w])
gradients(Adagrad(clipnorm=1.0, clipvalue=0.5), lambda: S(w * w), [w])
gradients(Adagrad(clipnorm=1.0), lambda: S(w * 1e25), [w])
gradients(Adagrad(clipnorm=0.0), lambda: S(w * 0.0), [w])
gradients(Adagrad(clipnorm=1.0), lambda: S(w * 1e-30), [w])
opt.clipnorm = 0.1; gradients(opt, lambda: S(w * w), [w])
opt.clipvalue = 0.1; gradients(opt, lambda: S(w * w), [w])
opt.get_gradients(S(w * w), [w])
opt.get_gradients(1.0, [w])
opt.get_gradients(None, [w])
opt.get_gradients('a', [w])
updates(opt, lambda: S(w * w), [w]); w
updates(opt, lambda: S(w * w), [w]); names(opt)
updates(opt, lambda: S(w * w) + S(u), [w, u]); [w, u]
updates(opt, lambda: S(w * w), [u])
updates(opt, lambda: S(w * w), [w, [u]])
updates(Adagrad(0.5, clipnorm=0.1), lambda: S(w * w), [w]); w
opt.get_updates(1.0, [w])
opt.get_updates(S(w * w), [w])
opt.set_weights([])
opt.set_weights([np.array(1)])
opt.set_weights([np.array(1), np.array([5.0, 6.0])])
opt.iterations; opt.set_weights([np.array(4)]); opt.iterations
opt.iterations; opt.set_weights([]); opt.iterations
step(opt); opt.set_weights([np.array(7), np.array([5.0, 6.0])]); opt.get_weights()
step(opt); opt.set_weights([np.array([5.0, 6.0])]); opt.get_weights()
step(opt); opt.set_weights((np.array([5.0, 6.0]),)); opt.get_weights()
step(opt); opt.set_weights((np.array(7), np.array([5.0, 6.0]))); opt.get_weights()
step(opt); opt.set_weights(opt.get_weights()); acc(opt)
step(opt); opt.set_weights([7, np.array([5.0, 6.0])]); opt.get_weights()
step(opt); opt.set_weights([np.array(7), [5.0, 6.0]]); opt.get_weights()
step(opt); opt.set_weights([np.array(7.9), np.array([5.0, 6.0])]); opt.get_weights()
step(opt); opt.set_weights([np.array(-1), np.array([5.0, 6.0])]); opt.get_weights()
step(opt); opt.set_weights([np.array(7), np.array([-5.0, nan])]); opt.get_weights()
step(opt); opt.set_weights([np.array([7]), np.array([5.0, 6.0])])
step(opt); opt.set_weights([np.array(7), np.array([5.0])])
step(opt); opt.set_weights([np.array(7), np.array([[5.0, 6.0]])])
step(opt); opt.set_weights([np.array(7), np.array([5, 6])]); acc(opt)
step(opt); opt.set_weights([np.array(7), np.array(['a', 'b'])])
step(opt); opt.set_weights([])
step(opt); opt.set_weights(None)
step(opt); opt.set_weights(3)
step(opt); opt.set_weights('ab')
step(opt); opt.set_weights([None, None])
step(opt); opt.set_weights(opt.weights); acc(opt)
step(opt); opt.set_weights([np.array(7), np.array([5.0, 6.0]), np.array(1)])
step(opt); opt.set_weights([np.array(7), np.array([5.0, 6.0])]); step(opt); [w, acc(opt), opt.iterations]
step(opt); opt.add_slot(w, 'foo'); opt.set_weights([np.array(1), np.array([5.0, 6.0]), np.array([7.0, 8.0])]); opt.get_slot(w, 'foo')
c = {}; Adagrad.from_config(c).get_config()
c = {}; Adagrad.from_config(c); c
c = {'lr': 0.5}; Adagrad.from_config(c).get_config()
c = {'lr': 0.5}; Adagrad.from_config(c); c
c = {'learning_rate': 0.25, 'lr': 0.5}; Adagrad.from_config(c).get_config()
Adagrad.from_config(opt.get_config()).get_config()
Adagrad.from_config(Adagrad(0.5, 0.2, 0.01, 'x', decay=0.1, clipnorm=1.0, clipvalue=2.0).get_config()).get_config()
step(opt); Adagrad.from_config(opt.get_config()).get_config()
Adagrad.from_config({'foo': 1})
Adagrad.from_config(None)
Adagrad.from_config([])
Adagrad.from_config('a')
Adagrad.from_config({'learning_rate': None}).get_config()
Adagrad.from_config({'learning_rate': 'f'}, {'f': lambda: 0.3}).get_config()
Adagrad.from_config({'learning_rate': 0.3}, None).get_config()
Adagrad.from_config(config={'learning_rate': 0.3}, custom_objects={'x': 1}).get_config()
Adagrad.from_config({'name': None, 'learning_rate': 0.3}).get_config()['learning_rate']
Adagrad.from_config({'clipnorm': -1.0})
Adagrad.from_config({'initial_accumulator_value': -1.0})
Adagrad.from_config(Adagrad(schedules.ExponentialDecay(0.5, 1, 0.5)).get_config()).get_config()
c = opt.get_config(); c['learning_rate'] = 9.0; opt.get_config()
o = copy.copy(opt); o.get_config()
o = copy.copy(opt); trained(o)
step(opt); o = copy.copy(opt); step(o); [w, acc(opt), acc(o), opt.iterations, o.iterations]
step(opt); o = copy.copy(opt); step(opt); [w, acc(opt), acc(o), opt.iterations, o.iterations]
step(opt); o = copy.copy(opt); step(o, u); [names(opt), names(o)]
step(opt); o = copy.copy(opt); step(o, u); step(opt, u); [opt.get_slot(u, 'accumulator'), u]
step(opt); o = copy.copy(opt); o.lr = 0.1; opt.lr
step(opt); o = copy.copy(opt); o.epsilon = 0.1; opt.epsilon
step(opt); o = copy.copy(opt); o.epsilon = 0.1; step(o); step(opt); w
step(opt); o = copy.copy(opt); o.clipnorm = 0.1; trained(opt)
o = copy.deepcopy(opt); o.get_config()
o = copy.deepcopy(opt); trained(o)
step(opt); o = copy.deepcopy(opt); step(o); [w, acc(opt), acc(o), opt.iterations, o.iterations]
step(opt); o = copy.deepcopy(opt); step(opt); [w, acc(opt), acc(o), opt.iterations, o.iterations]
step(opt); o = copy.deepcopy(opt); o.lr = 0.1; opt.lr
step(opt); o = copy.deepcopy(opt); names(o)
step(opt); o = copy.deepcopy(opt); step(o, u); [names(opt), names(o)]
x, o = copy.deepcopy((w, opt)); o.minimize(lambda: S(x * x), [x]); [w, x]
step(opt); x, o = copy.deepcopy((w, opt)); o.minimize(lambda: S(x * x), [x]); [w, x, len(o.weights)]
o = Adagrad(schedules.ExponentialDecay(0.5, 1, 0.5)); o = copy.deepcopy(o); trained(o, 3)
o = copy.deepcopy(Adagrad(0.5, clipnorm=0.1)); trained(o)
o = pickle.loads(pickle.dumps(opt)); o.get_config()
o = pickle.loads(pickle.dumps(opt)); trained(o)
step(opt); o = pickle.loads(pickle.dumps(opt)); names(o)
step(opt); o = pickle.loads(pickle.dumps(opt)); [o.get_weights(), o.get_config()]
step(opt); o = pickle.loads(pickle.dumps(opt)); step(o); [w, acc(opt), acc(o), o.iterations]
step(opt); x, o = pickle.loads(pickle.dumps((w, opt))); x
o = pickle.loads(pickle.dumps(Adagrad(0.5, clipnorm=0.1, decay=0.1))); trained(o)
o = Adagrad(schedules.ExponentialDecay(0.5, 1, 0.5)); o = pickle.loads(pickle.dumps(o)); trained(o, 3)
o = Adagrad(lambda: 0.5); o = copy.deepcopy(o); trained(o)
o = Adagrad(lambda: 0.5); o = pickle.loads(pickle.dumps(o)); trained(o)
compiled(lambda: step(opt))()
compiled(lambda: opt.minimize(lambda: S(w * w), [w]))()
f = compiled(lambda: opt.minimize(lambda: S(w * w), [w])); f(); f(); w
f = compiled(lambda: S(w * w)); opt.minimize(f, [w]); opt.minimize(f, [w]); w
f = compiled(lambda: S(w * w)); f(); opt.minimize(f, [w]); w
f = compiled(lambda: S(w * w)); f(); opt.minimize(lambda: f() + S(u), [w, u]); w
f = compiled(lambda: S(w * w)); f(); opt.minimize(lambda: f() + S(w), [w]); w
f = compiled(lambda: S(w * w)); f(); step(opt); f()
isinstance(opt, Adagrad)
opt == opt
opt == copy.deepcopy(opt)
hash(opt) == hash(opt)
len({opt, opt})
class_of(opt)
Adagrad.minimize(opt, lambda: S(w * w), [w]); w
"""


def calls():
    """All of them, each once."""
    lines = [*_of_each_argument(), *_of_initializers()]
    lines += [line for line in OTHERS.splitlines() if line]
    return list(dict.fromkeys(lines))


def plain(value):
    """``value`` in JSON: numbers to seven digits, variables with name and dtype."""
    if isinstance(value, (str, bool, int)) or value is None:
        return value
    if isinstance(value, (float, np.floating)):
        return _digits(value)
    if isinstance(value, (np.bool_, np.integer)):
        return value.item()
    if isinstance(value, np.dtype):
        return value.name
    if isinstance(value, np.ndarray):
        return plain(value.tolist()) if value.dtype.kind in "biufSU" else "array"
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return type(value).__name__


def _digits(value):
    value = float(value)
    return float(f"{value:.7g}") if math.isfinite(value) else str(value)


def run(code, vocabulary):
    """What the call gave, or the error that it raised."""
    names = dict(vocabulary, np=np, nan=math.nan, inf=math.inf, copy=copy)
    names["pickle"] = pickle
    show = vocabulary["show"]

    def step(opt, v=None):
        g = names["A"]([0.5, -2.0] if v is None else [1.0])
        return opt.apply_gradients([(g, names["w"] if v is None else v)])

    def trained(opt, steps=2):
        w = names["w"]
        for _ in range(steps):
            opt.minimize(lambda: names["S"](w * w), [w])
        return w

    names.update(step=step, trained=trained, class_of=lambda o: type(o).__name__)
    names["acc"] = lambda opt: opt.get_slot(names["w"], "accumulator")
    names["names"] = lambda opt: [weight.name for weight in opt.weights]
    try:
        body = ast.parse(BEGIN + "\n" + code).body
        last = body.pop() if isinstance(body[-1], ast.Expr) else None
        module = ast.parse("")
        module.body = body
        exec(compile(module, "call", "exec"), names)
        if last is None:
            return {"gives": None}
        value = eval(compile(ast.Expression(last.value), "call", "eval"), names)
        return {"gives": plain(show(value))}
    except Exception as error:
        return {"raises": type(error).__name__, "says": str(error)}
