// The list of tables.
export * from './job.entities.js'
export * from './model.entities.js'
export * from './student.entities.js'
export * from './taxonomy.entities.js'
