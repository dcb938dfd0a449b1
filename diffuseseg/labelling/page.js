'use strict'
const $ = id => document.getElementById(id)
const token = new URLSearchParams(location.search).get('token') || ''
const tab = [...crypto.getRandomValues(new Uint8Array(8))].map(v => v.toString(16).padStart(2, '0')).join('')
const NONE = 255

let project = null // names, classes, size of the model
let state = null // what the server said last
let image = null // the image in view: index, width, height, ids, undo, redo
let prediction = null // its prediction: version, ids, uncertainty, side, box
let picture = null // its pixels
let order = []
let tool = 'brush'
let chosen = 0
let zoom = 1
let stroke = null // the one that is being drawn
let blocked = false
const queue = [] // changes that the server has not confirmed

// ---------------------------------------------------------------- requests

async function request(path, body) {
  const options = { headers: { 'X-Token': token }, cache: 'no-store' }
  if (body) Object.assign(options, { method: 'POST', body: JSON.stringify({ tab, ...body }) })
  if (body) options.headers['Content-Type'] = 'application/json'
  const answer = await fetch(path, options)
  if (answer.ok) return answer
  const text = await answer.text()
  let message = text
  try { message = JSON.parse(text).error } catch { /* not JSON */ }
  throw Object.assign(new Error(message), { status: answer.status })
}
const getJson = async (path, body) => (await request(path, body)).json()
const pause = ms => new Promise(resolve => setTimeout(resolve, ms))
const imageUrl = (kind, i, version) => `${kind}/${i}?token=${token}&v=${version}`

function block(title, text) {
  blocked = true
  $('blocked-title').textContent = title
  $('blocked-text').textContent = text
  $('blocked').hidden = false
}

async function enter(take) {
  await request('open', { take })
  blocked = false
  $('blocked').hidden = true
}

$('take-over').onclick = async () => {
  await enter(true)
  if (!project) return start()
  await drained()
  show(image ? image.index : 0)
}

// ------------------------------------------------- saving, one change after the other

let sending = false
async function send() {
  if (sending) return
  sending = true
  while (queue.length) {
    showSaved()
    try {
      await request('strokes', queue[0])
      queue.shift()
    } catch (error) {
      if (error.status === 409) { block('This project is open in another window', error.message); await until(() => !blocked) }
      else if (error.status) { queue.shift(); alert(error.message); }
      else { showSaved('not saved, the server does not answer; trying again'); await pause(1000) }
    }
  }
  sending = false
  showSaved()
  poll()
}
const until = async test => { while (!test()) await pause(100) }
const drained = () => until(() => !queue.length)

function showSaved(problem) {
  $('saved').textContent = problem || (queue.length ? `saving ${queue.length}…` : 'saved')
  $('saved').className = 'chip ' + (problem ? 'bad' : queue.length ? 'busy' : 'good')
}

// ------------------------------------------------------------- changes of the strokes

function base64(bytes) {
  let text = ''
  for (let k = 0; k < bytes.length; k += 32768) text += String.fromCharCode(...bytes.subarray(k, k + 32768))
  return btoa(text)
}

function cut(ids, box) {
  const part = new Uint8Array(box.width * box.height)
  for (let y = 0; y < box.height; y++) {
    const from = (box.top + y) * image.width + box.left
    part.set(ids.subarray(from, from + box.width), y * box.width)
  }
  return part
}

function paste(part, box) {
  for (let y = 0; y < box.height; y++) {
    image.ids.set(part.subarray(y * box.width, (y + 1) * box.width), (box.top + y) * image.width + box.left)
  }
}

function changedBox(before) {
  let left = image.width, top = image.height, right = -1, bottom = -1
  for (let p = 0; p < before.length; p++) {
    if (before[p] === image.ids[p]) continue
    const x = p % image.width, y = (p - x) / image.width
    left = Math.min(left, x); right = Math.max(right, x); top = Math.min(top, y); bottom = y
  }
  return right < 0 ? null : { left, top, width: right - left + 1, height: bottom - top + 1 }
}

function post(part, box, count) {
  queue.push({ image: image.index, ...box, ids: base64(part), count })
  send()
}

function commit(before) {
  const box = changedBox(before)
  if (!box) return
  const change = { box, before: cut(before, box), after: cut(image.ids, box) }
  image.undo.push(change)
  image.redo.length = 0
  post(change.after, box, 1)
  drawStrokes()
}

function step(from, to, key, count) {
  const change = image && !stroke && from.pop()
  if (!change) return
  to.push(change)
  paste(change[key], change.box)
  post(change[key], change.box, count)
  drawStrokes()
}
const undo = () => image && step(image.undo, image.redo, 'before', -1)
const redo = () => image && step(image.redo, image.undo, 'after', 1)

function take(onlyChosen) {
  if (!image || !prediction) return
  const before = image.ids.slice()
  for (let p = 0; p < before.length; p++) {
    const k = prediction.ids[p]
    if (before[p] === NONE && k !== NONE && (!onlyChosen || k === chosen)) image.ids[p] = k
  }
  commit(before)
}

function fill(x, y, predicted) {
  const source = predicted && prediction ? prediction.ids : image.ids.slice()
  const { width, height } = image
  const wanted = source[y * width + x]
  const before = image.ids.slice()
  const value = chosen
  const seen = new Uint8Array(width * height)
  const stack = [y * width + x]
  while (stack.length) {
    const p = stack.pop()
    if (seen[p] || source[p] !== wanted) continue
    seen[p] = 1
    image.ids[p] = value
    const px = p % width
    if (px > 0) stack.push(p - 1)
    if (px < width - 1) stack.push(p + 1)
    if (p >= width) stack.push(p - width)
    if (p < width * (height - 1)) stack.push(p + width)
  }
  commit(before)
}

// -------------------------------------------------------------------- pointer

const brushSize = () => Number($('brush-size').value)

function position(event) {
  const box = $('stage').getBoundingClientRect()
  return [(event.clientX - box.left) / box.width * image.width, (event.clientY - box.top) / box.height * image.height]
}

function stamp(x, y) { // a disc of whole pixels: odd sizes around a pixel, even ones around a corner
  const size = brushSize(), radius = size / 2
  const cx = size % 2 ? Math.floor(x) + .5 : Math.round(x), cy = size % 2 ? Math.floor(y) + .5 : Math.round(y)
  const value = stroke.erase ? NONE : chosen
  for (let row = Math.max(0, cy - radius); row < Math.min(image.height, cy + radius); row++) {
    for (let column = Math.max(0, cx - radius); column < Math.min(image.width, cx + radius); column++) {
      const dx = column + .5 - cx, dy = row + .5 - cy
      if (dx * dx + dy * dy <= radius * radius) image.ids[row * image.width + column] = value
    }
  }
}

function line(x, y) {
  const [x0, y0] = stroke.last
  const steps = Math.max(1, Math.ceil(Math.hypot(x - x0, y - y0) / .5))
  for (let k = 1; k <= steps; k++) stamp(x0 + (x - x0) * k / steps, y0 + (y - y0) * k / steps)
  stroke.last = [x, y]
}

$('stage').addEventListener('pointerdown', event => {
  if (!image || blocked || stroke || event.button > 2) return
  event.preventDefault()
  const [x, y] = position(event)
  if (tool === 'fill') {
    if (x >= 0 && y >= 0 && x < image.width && y < image.height) fill(Math.floor(x), Math.floor(y), event.shiftKey)
    return
  }
  $('stage').setPointerCapture(event.pointerId)
  stroke = { before: image.ids.slice(), last: [x, y], erase: tool === 'erase' || event.button === 2 }
  stamp(x, y)
  drawStrokes()
})
$('stage').addEventListener('pointermove', event => {
  moveCursor(event)
  if (!stroke) return
  for (const part of event.getCoalescedEvents?.() || [event]) line(...position(part))
  line(...position(event))
  drawStrokes()
})
function endStroke() {
  if (!stroke) return
  const { before } = stroke
  stroke = null
  commit(before)
}
$('stage').addEventListener('pointerup', endStroke)
$('stage').addEventListener('pointercancel', endStroke)
$('stage').addEventListener('pointerleave', () => { $('cursor').style.display = 'none' })
$('stage').addEventListener('contextmenu', event => event.preventDefault())

function moveCursor(event) {
  if (!image || tool === 'fill') { $('cursor').style.display = 'none'; return }
  const box = $('stage').getBoundingClientRect()
  const side = Math.max(brushSize() * box.width / image.width, 6)
  const color = tool === 'erase' ? '#fff' : rgb(chosen)
  Object.assign($('cursor').style, { display: 'block', width: side + 'px', height: side + 'px', borderColor: color,
    left: event.clientX - box.left + 'px', top: event.clientY - box.top + 'px' })
}

// -------------------------------------------------------------------- drawing

const rgb = k => `rgb(${project.colors[k].join(',')})`

function drawPixels(canvas, width, height, color) { // color(p) gives [r, g, b, a], or nothing
  canvas.width = width; canvas.height = height
  const context = canvas.getContext('2d')
  const pixels = context.createImageData(width, height)
  for (let p = 0; p < width * height; p++) {
    const value = color(p)
    if (value) pixels.data.set(value, 4 * p)
  }
  context.putImageData(pixels, 0, 0)
}
const classColor = (ids, alpha) => p => ids[p] === NONE ? null : [...project.colors[ids[p]], alpha]

function drawStrokes() {
  drawPixels($('strokes'), image.width, image.height, classColor(image.ids, 255))
  $('undo').disabled = !image.undo.length
  $('redo').disabled = !image.redo.length
}

const HEADS = { quick: 'quick head', final: 'final head', given: 'given head' }

const HEAT = [[10, 8, 40], [92, 20, 110], [190, 55, 84], [243, 130, 38], [252, 250, 170]]
function heat(v) {
  const at = Math.min(.9999, v) * (HEAT.length - 1), k = Math.floor(at), part = at - k
  return HEAT[k].map((c, j) => Math.round(c + (HEAT[k + 1][j] - c) * part))
}
const uncertaintyOf = p => Math.min(1, prediction.uncertainty[p] / 128) // a byte is 1/255 bit; half a bit is the brightest

function drawPrediction() {
  const { width, height } = image
  const view = $('prediction-view'), uncertain = $('uncertainty-view')
  if (!prediction) {
    for (const id of ['prediction', 'uncertainty']) $(id).width = $(id).height = 1
    for (const canvas of [view, uncertain]) {
      canvas.width = width; canvas.height = height
      canvas.getContext('2d').globalAlpha = .35
      canvas.getContext('2d').drawImage(picture, 0, 0)
    }
    $('prediction-caption').textContent = 'Prediction'
    $('uncertainty-caption').textContent = 'Uncertainty'
    return
  }
  drawPixels($('prediction'), width, height, classColor(prediction.ids, 255))
  view.width = width; view.height = height
  const context = view.getContext('2d')
  context.drawImage(picture, 0, 0)
  context.globalAlpha = .8
  context.drawImage($('prediction'), 0, 0)
  const small = document.createElement('canvas')
  drawPixels(small, prediction.side, prediction.side, p => [...heat(uncertaintyOf(p)), 255])
  const { box } = prediction
  for (const canvas of [uncertain, $('uncertainty')]) {
    canvas.width = width; canvas.height = height
    const target = canvas.getContext('2d')
    target.imageSmoothingEnabled = width > prediction.side
    target.drawImage(small, box[0], box[1], box[2] - box[0], box[3] - box[1])
  }
  $('prediction-caption').textContent = `Prediction, ${HEADS[prediction.kind]}`
  $('uncertainty-caption').textContent = `Uncertainty, ${prediction.mean.toFixed(3)} bit`
}

function layout() {
  if (!image) return
  const room = $('stage-box')
  const fit = Math.min((room.clientWidth - 16) / image.width, (room.clientHeight - 16) / image.height)
  let scale = fit * zoom
  if (scale >= 2 && zoom === 1) scale = Math.floor(scale)
  $('stage').style.width = image.width * scale + 'px'
  $('stage').style.height = image.height * scale + 'px'
  $('stage').classList.toggle('large', scale < 2)
}
window.addEventListener('resize', () => { layout(); drawStrip() })

function setOpacity() {
  $('strokes').style.opacity = $('strokes-opacity').value / 100
  $('prediction').style.opacity = $('prediction-opacity').value / 100
  $('uncertainty').style.opacity = $('uncertainty-opacity').value / 100
}
for (const id of ['strokes-opacity', 'prediction-opacity', 'uncertainty-opacity']) $(id).oninput = setOpacity

// ------------------------------------------------------------------ the image in view

let opening = 0
async function show(index) {
  if (stroke) endStroke()
  const mine = ++opening
  await drained()
  const file = new Image()
  file.src = imageUrl('image', index, 0)
  let answer
  try {
    await file.decode()
    answer = await request(`labels/${index}`)
  } catch (error) {
    $('stage-note').textContent = `${project.names[index]} cannot be shown`
    return
  }
  const ids = new Uint8Array(await answer.arrayBuffer())
  if (mine !== opening) return
  zoom = 1
  picture = file
  prediction = null
  image = { index, width: file.naturalWidth, height: file.naturalHeight, ids, undo: [], redo: [] }
  $('brush-size').max = Math.max(24, Math.round(Math.min(image.width, image.height) / 6))
  const canvas = $('image')
  canvas.width = image.width; canvas.height = image.height
  canvas.getContext('2d').drawImage(file, 0, 0)
  $('stage-note').textContent = ''
  $('title').textContent = ''
  const name = document.createElement('b')
  name.textContent = project.names[index]
  $('title').append(name, `  ${index + 1} of ${project.names.length.toLocaleString('en')}, ${image.width} × ${image.height}`)
  layout(); drawStrokes(); drawPrediction(); drawStrip()
  poll()
}

async function loadPrediction(version) {
  const index = image.index
  const answer = await request(`prediction/${index}`)
  if (answer.status === 204) return
  const bytes = new Uint8Array(await answer.arrayBuffer())
  if (!image || image.index !== index) return
  const about = JSON.parse(answer.headers.get('X-Prediction'))
  const pixels = image.width * image.height
  prediction = { ...about, ids: bytes.subarray(0, pixels), uncertainty: bytes.subarray(pixels) }
  drawPrediction()
}

// --------------------------------------------------------------------- the strip

const CELL = () => parseFloat(getComputedStyle(document.documentElement).getPropertyValue('--strip')) + 8
function visibleRange() {
  const strip = $('strip'), cell = CELL()
  const first = Math.max(0, Math.floor(strip.scrollLeft / cell) - 1)
  return [first, Math.min(order.length, first + Math.ceil(strip.clientWidth / cell) + 3)]
}

function drawStrip() {
  if (!project) return
  const inner = $('strip-inner'), cell = CELL()
  inner.style.width = order.length * cell + 'px'
  const [first, last] = visibleRange()
  const wanted = new Set(order.slice(first, last))
  for (const node of [...inner.children]) if (!wanted.has(Number(node.dataset.index))) node.remove()
  for (let place = first; place < last; place++) {
    const index = order[place]
    let node = inner.querySelector(`[data-index="${index}"]`)
    if (!node) {
      node = document.createElement('button')
      node.className = 'thumb'
      node.dataset.index = index
      node.append(new Image())
      node.firstChild.alt = project.names[index]
      for (const kind of ['mark', 'value']) node.append(Object.assign(document.createElement('span'), { className: kind }))
      node.onclick = () => show(index)
      inner.append(node)
    }
    node.style.left = place * cell + 'px'
    const known = state?.visible?.[index]
    node.title = known ? `${project.names[index]}, ${HEADS[known.kind]}` : project.names[index]
    const url = imageUrl('thumb', index, known ? known.version : 0)
    if (node.firstChild.getAttribute('src') !== url) node.firstChild.src = url
    node.classList.toggle('current', image?.index === index)
    const labelled = state?.labelled.includes(index)
    node.querySelector('.mark').textContent = labelled ? '✓' : ''
    node.querySelector('.mark').hidden = !labelled
    node.querySelector('.value').textContent = known ? known.uncertainty.toFixed(2) : ''
    node.querySelector('.value').hidden = !known
  }
}
$('strip').addEventListener('scroll', drawStrip)
$('strip').addEventListener('wheel', event => {
  if (Math.abs(event.deltaY) > Math.abs(event.deltaX)) { $('strip').scrollLeft += event.deltaY; event.preventDefault() }
}, { passive: false })

async function sort() {
  order = (await getJson('order', { by: $('order').value })).order
  $('strip').scrollLeft = 0
  drawStrip()
}
$('order').onchange = sort
$('refresh').onclick = sort

async function nextImage() {
  await drained()
  await sort()
  const labelled = new Set(state?.labelled || [])
  let places = order.filter(i => i !== image?.index && !labelled.has(i))
  if ($('order').value === 'name' && image) places = [...places.filter(i => i > image.index), ...places]
  if (places.length) show(places[0])
  else $('strip-note').textContent = 'every image has strokes'
}
$('next').onclick = nextImage

function neighbour(by) {
  const index = order[order.indexOf(image.index) + by]
  if (index === undefined) return
  show(index)
  const cell = CELL(), left = order.indexOf(index) * cell
  if (left < $('strip').scrollLeft || left + cell > $('strip').scrollLeft + $('strip').clientWidth) $('strip').scrollLeft = left - cell
}

// ------------------------------------------------------------------- what the server says

function element(tag, text, className) {
  const node = document.createElement(tag)
  if (text !== undefined) node.textContent = text
  if (className) node.className = className
  return node
}

function drawClasses() {
  const box = $('classes')
  if (!box.children.length) project.classes.forEach((name, k) => {
    const button = element('button', undefined, 'class')
    const swatch = element('span', undefined, 'swatch')
    swatch.style.background = rgb(k)
    button.append(element('kbd', k < 9 ? k + 1 : k === 9 ? 0 : ''), swatch, element('span', name, 'name'), element('span', '0', 'count'))
    button.onclick = () => choose(k)
    button.dataset.class = k
    box.append(button)
  })
  for (const [k, node] of [...box.children].entries()) {
    node.classList.toggle('chosen', k === chosen && tool !== 'erase')
    if (state) node.querySelector('.count').textContent = state.pixels[k].toLocaleString('en')
  }
}

function choose(k) {
  chosen = k
  if (tool === 'erase') setTool('brush')
  drawClasses()
  $('classes').children[k].scrollIntoView({ block: 'nearest' })
}

function setTool(name) {
  tool = name
  for (const button of document.querySelectorAll('[data-tool]')) button.classList.toggle('chosen', button.dataset.tool === name)
  $('stage').classList.toggle('fill', name === 'fill')
  $('cursor').style.display = 'none'
  if (project) drawClasses()
}
for (const button of document.querySelectorAll('[data-tool]')) button.onclick = () => setTool(button.dataset.tool)

function drawScores() {
  const rows = [['class', 'images', 'IoU', '']]
  const table = $('scores')
  table.replaceChildren()
  const head = element('tr')
  for (const text of rows[0]) head.append(element('th', text))
  table.append(head)
  project.classes.forEach((name, k) => {
    const iou = state.ious?.[k]
    const row = element('tr')
    const bar = element('td', undefined, 'bar')
    if (iou !== null && iou !== undefined) {
      const inner = element('div')
      inner.style.width = 100 * iou + '%'
      inner.style.background = rgb(k)
      bar.append(inner)
    }
    row.append(element('td', name), element('td', state.images[k] || '–'), element('td', iou?.toFixed(2) ?? '–'), bar)
    table.append(row)
  })
  const mean = element('tr', undefined, 'mean')
  mean.append(element('td', 'mean'), element('td', state.labelled.length), element('td', state.mean_iou?.toFixed(2) ?? '–'), element('td'))
  table.append(mean)
  $('scores-title').textContent = state.labelled.length < 2 ? 'Cross-validated IoU, from two images on' : 'Cross-validated IoU'
}

function drawFinal() {
  const { state: stage, seconds, error } = state.final
  const texts = { none: '', fitting: `fitting, ${seconds} s`, shown: 'knows all strokes', older: 'older than the last stroke' }
  $('final-status').textContent = error || texts[stage]
  $('fit-final').disabled = stage === 'fitting' || stage === 'shown' || !state.labelled.length
}

function drawState() {
  drawClasses(); drawScores(); drawStrip(); drawFinal()
  const absent = project.classes.filter((_, k) => !state.pixels[k])
  $('absent').textContent = absent.length && absent.length < project.classes.length
    ? `Without strokes, so never predicted: ${absent.join(', ')}` : ''
  const busy = state.status !== 'ready'
  $('status').textContent = state.error ? `stopped: ${state.error}` : state.status
  $('status').className = 'chip ' + (state.error ? 'bad' : busy ? 'busy' : 'good')
  $('features').textContent = state.features < state.total
    ? `features of ${state.features.toLocaleString('en')} of ${state.total.toLocaleString('en')} images` : ''
  $('features-bar').hidden = state.features >= state.total
  $('features-bar').value = state.features / Math.max(1, state.total)
  $('work').textContent = `${state.strokes} stroke${state.strokes === 1 ? '' : 's'} in ${(state.seconds / 60).toFixed(1)} minutes on ${state.labelled.length} image${state.labelled.length === 1 ? '' : 's'}`
  $('notes-box').hidden = !state.notes.length
  $('notes-title').textContent = `${state.notes.length} note${state.notes.length === 1 ? '' : 's'}: images left out and other remarks`
  $('notes').replaceChildren(...state.notes.map(text => element('li', text)))
  $('accept-all').disabled = $('accept-class').disabled = !prediction
  $('stage-note').textContent = state.labelled.length || !image ? '' : 'Draw a stroke of each class; the prediction follows'
  const { export: done } = state
  if (done) {
    const progress = done.done || state.final.state !== 'fitting' ? `${done.done} of ${done.total} images`
      : `fitting the final head, ${state.final.seconds} s`
    $('export-status').textContent = done.error || (done.out ? `Written to ${done.out}` : progress)
    $('export-start').disabled = !done.out && !done.error
  }
}

let polling = false
async function poll() {
  if (polling || blocked || !project) return
  polling = true
  try {
    const [first, last] = visibleRange()
    state = await getJson('state', { current: image ? image.index : 0, visible: order.slice(first, last) })
    drawState()
    const version = state.current_version
    if (image && version !== null && state.current === image.index && version !== prediction?.version) await loadPrediction(version)
    if (!queue.length) showSaved()
  } catch (error) {
    if (error.status === 409) block('This project is open in another window', error.message)
    else if (error.status === 403) block('This address is no longer valid', 'Open the address that the server printed.')
    else if (!error.status) showSaved('the server does not answer; strokes are kept here and sent when it is back')
    else console.error(error)
  }
  polling = false
}
setInterval(poll, 500)

// ---------------------------------------------------------------------- export, keys, start

$('export-open').onclick = () => { $('export-status').textContent = ''; $('export-dialog').showModal() }
$('export-start').onclick = async () => {
  await drained()
  $('export-start').disabled = true
  try { await request('export', { masks: $('export-masks').value, format: $('export-format').value }) }
  catch (error) { $('export-status').textContent = error.message; $('export-start').disabled = false }
  poll()
}
$('fit-final').onclick = async () => {
  await drained()
  $('fit-final').disabled = true
  try { await request('final', {}) } catch (error) { $('final-status').textContent = error.message }
  poll()
}
$('undo').onclick = undo
$('redo').onclick = redo
$('accept-all').onclick = () => take(false)
$('accept-class').onclick = () => take(true)
$('brush-size').oninput = () => { $('brush-size-value').textContent = brushSize() }

function resizeBrush(by) {
  $('brush-size').value = brushSize() + by
  $('brush-size').oninput()
}
function setZoom(factor) {
  zoom = Math.min(16, Math.max(1, zoom * factor))
  layout()
}

document.addEventListener('keydown', event => {
  if (!image || blocked || $('export-dialog').open || /^(SELECT|TEXTAREA)$/.test(event.target.tagName)) return
  const key = event.key.toLowerCase()
  if ((event.ctrlKey || event.metaKey) && (key === 'z' || key === 'y')) {
    event.preventDefault()
    return key === 'y' || event.shiftKey ? redo() : undo()
  }
  if (event.ctrlKey || event.metaKey || event.altKey) return
  if (event.target.type === 'range' && key.startsWith('arrow')) return
  const digit = /^Digit(\d)$/.exec(event.code)
  if (digit) {
    const k = (Number(digit[1]) + 9) % 10 + (event.shiftKey ? 10 : 0)
    if (k < project.classes.length) choose(k)
  } else if (key === 'b') setTool('brush')
  else if (key === 'e') setTool('erase')
  else if (key === 'f') setTool('fill')
  else if (key === '[') resizeBrush(-1)
  else if (key === ']') resizeBrush(1)
  else if (key === 'n') nextImage()
  else if (key === 'a') take(event.shiftKey)
  else if (key === 'arrowleft') neighbour(-1)
  else if (key === 'arrowright') neighbour(1)
  else if (key === '+' || key === '=') setZoom(1.5)
  else if (key === '-') setZoom(1 / 1.5)
  else if (key === ' ') {
    event.preventDefault()
    for (const id of ['strokes', 'prediction', 'uncertainty']) $(id).style.opacity = 0
  }
})
document.addEventListener('keyup', event => { if (event.key === ' ') setOpacity() })
window.addEventListener('beforeunload', event => { if (queue.length) event.preventDefault() })
window.addEventListener('pagehide', () => {
  navigator.sendBeacon(`close?token=${token}`, JSON.stringify({ tab }))
})

async function start() {
  try { await enter(false) } catch (error) {
    if (error.status === 409) return block('This project is open in another window', error.message)
    return block('The page could not be opened', error.message)
  }
  project = await getJson('project')
  chosen = Math.min(1, project.classes.length - 1)
  setTool('brush')
  $('brush-size').oninput()
  setOpacity()
  order = project.names.map((_, i) => i).filter(i => !project.unreadable.includes(i))
  await show(project.start)
  await sort()
}
start()
