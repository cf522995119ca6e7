CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT, city TEXT);
CREATE TABLE orders (id INTEGER PRIMARY KEY, customer_id INTEGER, item TEXT, price INTEGER);
INSERT INTO customers VALUES (1, 'Ada', 'Oslo'), (2, 'Kai', 'Bergen'), (3, 'Liv', 'Oslo'), (4, 'Per', 'Bodø');
INSERT INTO orders VALUES (1, 1, 'lamp', 40), (2, 1, 'desk', 120), (3, 2, 'lamp', 40), (4, 3, 'chair', 75),
  (5, 3, 'lamp', 40), (6, 3, 'shelf', 60);
